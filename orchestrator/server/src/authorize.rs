//! Who may do what. Until roles come: masters and the control plane everything, nodes and cluster DNS a
//! list, everybody with valid credentials discovery and reviews of oneself. Pure.

use catamaran_api::status::{GroupResource, Status};

use crate::authenticate::{AUTHENTICATED, MASTERS, UserInfo};
use crate::route::{ResourceRequest, Route, Verb};

/// What somebody wants to do with resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// Verb, in the words of Kubernetes (`get`, `list`, …; free text in reviews).
    pub verb: &'a str,
    /// API group.
    pub group: &'a str,
    /// Plural.
    pub resource: &'a str,
    /// Subresource, or empty.
    pub subresource: &'a str,
    /// Namespace, or empty.
    pub namespace: &'a str,
    /// Object name, or empty.
    pub name: &'a str,
}

impl<'a> Attributes<'a> {
    /// Those of a request.
    pub fn of(request: &'a ResourceRequest) -> Self {
        Attributes {
            verb: request.verb.as_str(),
            group: &request.group,
            resource: &request.resource,
            subresource: request.subresource.as_deref().unwrap_or_default(),
            namespace: request.namespace.as_deref().unwrap_or_default(),
            name: request.name.as_deref().unwrap_or_default(),
        }
    }
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow,
    /// Nothing allows it.
    NoOpinion,
}

const COMPONENTS: [&str; 4] =
    ["system:kube-controller-manager", "system:kube-scheduler", "system:kube-apiserver", "system:apiserver"];

/// A rule: groups, resources (`resource` or `resource/subresource`), verbs.
type Rule = (&'static [&'static str], &'static [&'static str], &'static [&'static str]);

const READ: &[&str] = &["get", "list", "watch"];

const NODE_RULES: &[Rule] = &[
    (
        &[""],
        &[
            "pods",
            "nodes",
            "services",
            "endpoints",
            "configmaps",
            "secrets",
            "persistentvolumes",
            "persistentvolumeclaims",
            "namespaces",
            "serviceaccounts",
        ],
        READ,
    ),
    (&["discovery.k8s.io"], &["endpointslices"], READ),
    (&["node.k8s.io"], &["runtimeclasses"], READ),
    (&["scheduling.k8s.io"], &["priorityclasses"], READ),
    (&["storage.k8s.io"], &["csidrivers", "csinodes", "volumeattachments"], READ),
    (&[""], &["nodes"], &["create", "update", "patch"]),
    (&[""], &["nodes/status", "pods/status"], &["get", "update", "patch"]),
    (&[""], &["pods"], &["create", "delete"]),
    (&[""], &["pods/eviction", "serviceaccounts/token"], &["create"]),
    (&["", "events.k8s.io"], &["events"], &["create", "update", "patch"]),
    (&["coordination.k8s.io"], &["leases"], &["get", "list", "watch", "create", "update", "patch", "delete"]),
    (&["certificates.k8s.io"], &["certificatesigningrequests"], &["get", "list", "watch", "create"]),
    (&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
    (&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
];

const DNS_RULES: &[Rule] = &[
    (&[""], &["services", "endpoints", "pods", "namespaces", "nodes"], READ),
    (&["discovery.k8s.io"], &["endpointslices"], READ),
];

const SELF_RULES: &[Rule] = &[
    (&["authentication.k8s.io"], &["selfsubjectreviews"], &["create"]),
    (&["authorization.k8s.io"], &["selfsubjectaccessreviews", "selfsubjectrulesreviews"], &["create"]),
];

/// Whether `user` may do that.
pub fn authorize(user: &UserInfo, wanted: &Attributes<'_>) -> Decision {
    if all_powerful(user) || rules_of(user).iter().any(|rules| allows(rules, wanted)) {
        if user.member_of("system:nodes") && !user.member_of(MASTERS) && !own_node(user, wanted) {
            return Decision::NoOpinion;
        }
        return Decision::Allow;
    }
    Decision::NoOpinion
}

/// Whether the user may do everything.
pub fn all_powerful(user: &UserInfo) -> bool {
    user.member_of(MASTERS)
        || COMPONENTS.contains(&user.name.as_str())
        || COMPONENTS.iter().any(|component| user.member_of(component))
}

/// The rules that apply to a user who is not all-powerful.
pub fn rules_of(user: &UserInfo) -> Vec<&'static [Rule]> {
    let mut rules = Vec::new();
    if user.member_of(AUTHENTICATED) {
        rules.push(SELF_RULES);
    }
    if user.member_of("system:nodes") {
        rules.push(NODE_RULES);
    }
    if user.name == "system:kube-dns" {
        rules.push(DNS_RULES);
    }
    rules
}

fn allows(rules: &[Rule], wanted: &Attributes<'_>) -> bool {
    rules.iter().any(|(groups, resources, verbs)| {
        groups.contains(&wanted.group)
            && verbs.contains(&wanted.verb)
            && resources.iter().any(|rule| match rule.split_once('/') {
                Some((resource, subresource)) => {
                    resource == wanted.resource && subresource == wanted.subresource
                }
                None => *rule == wanted.resource && wanted.subresource.is_empty(),
            })
    })
}

/// A node writes only its own Node and its own lease.
fn own_node(user: &UserInfo, wanted: &Attributes<'_>) -> bool {
    let writes = !READ.contains(&wanted.verb);
    let named_after_nodes = matches!(wanted.resource, "nodes" | "leases");
    let Some(node) = user.name.strip_prefix("system:node:") else { return !writes };
    !writes || !named_after_nodes || wanted.name.is_empty() || wanted.name == node
}

/// Whether the user may use a path that is no resource.
pub fn authorize_path(user: &UserInfo, route: &Route) -> Decision {
    let open = matches!(route, Route::Health(..) | Route::Version);
    let discovery = !matches!(route, Route::Metrics);
    if open || all_powerful(user) || (discovery && user.member_of(AUTHENTICATED)) {
        Decision::Allow
    } else {
        Decision::NoOpinion
    }
}

/// 403 (or 401 for nobody) with Kubernetes' wording.
pub fn refuse(user: &UserInfo, wanted: &Attributes<'_>) -> Status {
    if !user.member_of(AUTHENTICATED) {
        return Status::unauthorized("Unauthorized");
    }
    let resource = if wanted.subresource.is_empty() {
        wanted.resource.to_owned()
    } else {
        format!("{}/{}", wanted.resource, wanted.subresource)
    };
    let place = if wanted.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{}\"", wanted.namespace)
    };
    let why = format!(
        "User \"{}\" cannot {} resource \"{resource}\" in API group \"{}\" {place}",
        user.name, wanted.verb, wanted.group
    );
    Status::forbidden(GroupResource::new(wanted.group, wanted.resource), wanted.name, &why)
}

/// 403 (or 401 for nobody) for a path.
pub fn refuse_path(user: &UserInfo, verb: Verb, path: &str) -> Status {
    if !user.member_of(AUTHENTICATED) {
        return Status::unauthorized("Unauthorized");
    }
    let why = format!("User \"{}\" cannot {} path \"{path}\"", user.name, verb.as_str());
    Status::forbidden(GroupResource::new("", ""), "", &why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(user: &UserInfo, verb: &str, group: &str, resource: &str, name: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let wanted = Attributes { verb, group, resource, subresource, namespace: "default", name };
        authorize(user, &wanted) == Decision::Allow
    }

    #[test]
    fn decisions() {
        let admin = UserInfo::new("admin", &[MASTERS]);
        let scheduler = UserInfo::component("system:kube-scheduler");
        let node = UserInfo::new("system:node:n1", &["system:nodes"]);
        let dns = UserInfo::component("system:kube-dns");
        let account = UserInfo::new("system:serviceaccount:d:x", &["system:serviceaccounts"]);
        let nobody = UserInfo::anonymous();
        let reviews = "authorization.k8s.io";
        let table = [
            (&admin, "delete", "", "secrets", "s", true),
            (&scheduler, "create", "", "pods/binding", "p", true),
            (&node, "list", "", "pods", "", true),
            (&node, "patch", "", "pods/status", "p", true),
            (&node, "patch", "", "pods", "p", false),
            (&node, "patch", "", "nodes/status", "n1", true),
            (&node, "patch", "", "nodes/status", "n2", false),
            (&node, "update", "coordination.k8s.io", "leases", "n2", false),
            (&node, "create", "apps", "deployments", "", false),
            (&node, "get", "", "nodes", "n2", true),
            (&dns, "watch", "discovery.k8s.io", "endpointslices", "", true),
            (&dns, "list", "", "secrets", "", false),
            (&account, "create", reviews, "selfsubjectaccessreviews", "", true),
            (&account, "list", "", "pods", "", false),
            (&nobody, "create", reviews, "selfsubjectaccessreviews", "", false),
        ];
        for (user, verb, group, resource, name, expected) in table {
            assert_eq!(
                may(user, verb, group, resource, name),
                expected,
                "{} {verb} {resource} {name}",
                user.name
            );
        }
    }

    #[test]
    fn paths() {
        let nobody = UserInfo::anonymous();
        let account = UserInfo::new("x", &[]);
        assert_eq!(authorize_path(&nobody, &Route::Version), Decision::Allow);
        assert_eq!(authorize_path(&nobody, &Route::Groups), Decision::NoOpinion);
        assert_eq!(authorize_path(&account, &Route::Groups), Decision::Allow);
        assert_eq!(authorize_path(&account, &Route::Metrics), Decision::NoOpinion);
    }

    #[test]
    fn wording() {
        let user = UserInfo::new("jane", &[]);
        let wanted = Attributes {
            verb: "list",
            group: "",
            resource: "pods",
            subresource: "",
            namespace: "default",
            name: "",
        };
        assert_eq!(
            refuse(&user, &wanted).message,
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#
        );
        assert_eq!(refuse(&UserInfo::anonymous(), &wanted).code, 401);
    }
}
