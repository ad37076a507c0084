//! Who may do what. Masters and the control plane everything, nodes and cluster DNS a fixed list, and everybody
//! what roles and bindings give them (`rbac/`); with Kubernetes' words for a refusal.

use catamaran_api::status::{GroupResource, Status, quoted};

use crate::authenticate::{MASTERS, UserInfo};
use crate::core::Core;
use crate::node;
use crate::rbac::{Reviewed, Rule};
use crate::route::{ResourceRequest, Route, Verb};

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// Something with resources.
    Resource(Attributes<'a>),
    /// A request for a path that is no resource.
    Path {
        /// The method in lower case.
        verb: &'a str,
        /// The path, without the query.
        path: &'a str,
    },
}

impl<'a> Action<'a> {
    /// The namespace that bindings must be in to count, or empty.
    pub fn namespace(&self) -> &'a str {
        match self {
            Action::Resource(wanted) => wanted.namespace,
            Action::Path { .. } => "",
        }
    }
}

/// What somebody wants to do with resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Those of a request. A list or watch of the one object that a field selector names counts as about it.
    pub fn of(request: &'a ResourceRequest, selected: Option<&'a str>) -> Self {
        let one = matches!(request.verb, Verb::List | Verb::Watch | Verb::DeleteCollection);
        let name = request.name.as_deref().or(selected.filter(|_| one)).unwrap_or_default();
        Attributes {
            verb: request.verb.as_str(),
            group: &request.group,
            resource: &request.resource,
            subresource: request.subresource.as_deref().unwrap_or_default(),
            namespace: request.namespace.as_deref().unwrap_or_default(),
            name,
        }
    }
}

/// What the chain of authorizers says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Yes, and why, where there is something to say.
    Allow(String),
    /// Nothing allows it; with what went wrong meanwhile, or empty.
    NoOpinion(String),
}

impl Decision {
    pub(crate) fn allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }
}

/// Groups, resources (`resource` or `resource/subresource`), verbs.
type Fixed = (&'static [&'static str], &'static [&'static str], &'static [&'static str]);

const READ: &[&str] = &["get", "list", "watch"];

const NODE_RULES: &[Fixed] = &[
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
    // Admission lets a node make only mirrors of its own static pods.
    (&[""], &["pods"], &["create", "delete"]),
    // That the directory of a volume is gone.
    (&[""], &["persistentvolumes/status"], &["patch"]),
    (&[""], &["persistentvolumeclaims/status"], &["get", "update", "patch"]),
    (&["storage.k8s.io"], &["csinodes"], &["create", "update", "patch", "delete"]),
    (&[""], &["pods/eviction", "serviceaccounts/token"], &["create"]),
    (&["", "events.k8s.io"], &["events"], &["create", "update", "patch"]),
    (&["coordination.k8s.io"], &["leases"], &["get", "list", "watch", "create", "update", "patch", "delete"]),
    (&["certificates.k8s.io"], &["certificatesigningrequests"], &["get", "list", "watch", "create"]),
    (&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
    (&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
];

const DNS_RULES: &[Fixed] = &[
    (&[""], &["services", "endpoints", "pods", "namespaces", "nodes"], READ),
    (&["discovery.k8s.io"], &["endpointslices"], READ),
];

/// Asks one authorizer after the other.
///
/// # Errors
/// When roles and bindings cannot be read.
pub(crate) async fn decide(core: &Core, user: &UserInfo, action: &Action<'_>) -> Result<Decision, Status> {
    let objection = match (built_in(user, action), action) {
        (true, Action::Resource(wanted)) if user.member_of("system:nodes") && !all_powerful(user) => {
            node::objection(core, user, wanted).await?
        }
        (true, _) => None,
        (false, _) => Some(String::new()),
    };
    let Some(objection) = objection else { return Ok(Decision::Allow(String::new())) };
    Ok(match core.rbac.ask(|index| index.review(user, action)).await? {
        Reviewed::Allowed(reason) => Decision::Allow(reason),
        Reviewed::NoOpinion(faults) if faults.is_empty() => Decision::NoOpinion(objection),
        Reviewed::NoOpinion(faults) => Decision::NoOpinion(faults),
    })
}

/// As [`decide`], with the refusal that a client sees.
///
/// # Errors
/// 403, or when roles and bindings cannot be read.
pub(crate) async fn require(core: &Core, user: &UserInfo, action: &Action<'_>) -> Result<(), Status> {
    match decide(core, user, action).await? {
        Decision::Allow(_) => Ok(()),
        Decision::NoOpinion(faults) => Err(refuse(user, action, &faults)),
    }
}

/// Demands a role for what the built-in rules alone do not give.
///
/// # Errors
/// 403 with the objection, or when roles and bindings cannot be read.
pub(crate) async fn require_role(
    core: &Core,
    user: &UserInfo,
    action: &Action<'_>,
    objection: &str,
) -> Result<(), Status> {
    match core.rbac.ask(|index| index.review(user, action)).await? {
        Reviewed::Allowed(_) => Ok(()),
        Reviewed::NoOpinion(_) => Err(refuse(user, action, objection)),
    }
}

/// What needs no role: masters, the control plane, nodes, cluster DNS.
pub fn built_in(user: &UserInfo, action: &Action<'_>) -> bool {
    if all_powerful(user) {
        return true;
    }
    let Action::Resource(wanted) = action else { return false };
    fixed_rules(user).any(|rule| allows(rule, wanted))
        && (!user.member_of("system:nodes") || own_node(user, wanted))
}

/// Whether the user may do everything. No name gives that: the control plane's parts in this process are members.
pub fn all_powerful(user: &UserInfo) -> bool {
    user.member_of(MASTERS)
}

/// What [`built_in`] allows, as rules; for those who ask what they may do, and for what they may grant.
pub(crate) fn built_in_rules(user: &UserInfo) -> Vec<Rule> {
    if all_powerful(user) {
        return Rule::full_authority().to_vec();
    }
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
    let rule = |(groups, resources, verbs): &Fixed| Rule {
        verbs: words(verbs),
        api_groups: words(groups),
        resources: words(resources),
        ..Rule::default()
    };
    fixed_rules(user).map(rule).collect()
}

fn fixed_rules(user: &UserInfo) -> impl Iterator<Item = &'static Fixed> {
    let node = if user.member_of("system:nodes") { NODE_RULES } else { &[] };
    let dns = if user.name == "system:kube-dns" { DNS_RULES } else { &[] };
    node.iter().chain(dns)
}

fn allows((groups, resources, verbs): &Fixed, wanted: &Attributes<'_>) -> bool {
    groups.contains(&wanted.group)
        && verbs.contains(&wanted.verb)
        && resources.iter().any(|rule| match rule.split_once('/') {
            Some((resource, subresource)) => resource == wanted.resource && subresource == wanted.subresource,
            None => *rule == wanted.resource && wanted.subresource.is_empty(),
        })
}

/// A node writes only its own Node and its own lease.
fn own_node(user: &UserInfo, wanted: &Attributes<'_>) -> bool {
    let writes = !READ.contains(&wanted.verb);
    let named_after_nodes = matches!(wanted.resource, "nodes" | "leases");
    let Some(node) = user.name.strip_prefix("system:node:") else { return !writes };
    // A created object has no name yet; the network's own leases are not named after nodes.
    let unnamed = wanted.name.is_empty() && (wanted.resource == "leases" || wanted.verb == "create");
    !writes || !named_after_nodes || unnamed || wanted.name == node
}

/// Paths that anybody may ask for: whoever watches over the server has to get an answer whatever the roles say.
pub(crate) fn is_open(route: &Route) -> bool {
    matches!(route, Route::Health(..) | Route::Version)
}

/// 403 with Kubernetes' wording; `faults` says what went wrong in looking for a role, or is empty.
pub(crate) fn refuse(user: &UserInfo, action: &Action<'_>, faults: &str) -> Status {
    let name = quoted(&user.name);
    let (mut why, resource, object) = match action {
        Action::Path { verb, path } => {
            (format!("User {name} cannot {verb} path {}", quoted(path)), GroupResource::new("", ""), "")
        }
        Action::Resource(wanted) => (
            format!("User {name} cannot {}", words(wanted)),
            GroupResource::new(wanted.group, wanted.resource),
            wanted.name,
        ),
    };
    if !faults.is_empty() {
        why.push_str(": ");
        why.push_str(faults);
    }
    Status::forbidden(resource, object, &why)
}

fn words(wanted: &Attributes<'_>) -> String {
    let Attributes { verb, group, resource, subresource, namespace, .. } = wanted;
    let slash = if subresource.is_empty() { "" } else { "/" };
    let place = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {}", quoted(namespace))
    };
    format!("{verb} resource \"{resource}{slash}{subresource}\" in API group {} {place}", quoted(group))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes<'a>(verb: &'a str, group: &'a str, resource: &'a str, name: &'a str) -> Attributes<'a> {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes { verb, group, resource, subresource, namespace: "default", name }
    }

    #[test]
    fn what_needs_no_role() {
        let admin = UserInfo::new("admin", &[MASTERS]);
        let scheduler = UserInfo::component("system:kube-scheduler");
        let node = UserInfo::new("system:node:n1", &["system:nodes"]);
        let dns = UserInfo::new("system:kube-dns", &[]);
        let namesake = UserInfo::new("system:kube-scheduler", &["system:kube-controller-manager"]);
        let account = UserInfo::new("system:serviceaccount:d:x", &["system:serviceaccounts"]);
        let table = [
            (&admin, "delete", "", "secrets", "s", true),
            (&scheduler, "create", "", "pods/binding", "p", true),
            (&namesake, "list", "", "secrets", "", false),
            (&node, "create", "", "pods", "", true),
            (&node, "update", "", "pods", "p", false),
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
            (&account, "list", "", "pods", "", false),
        ];
        for (user, verb, group, resource, name, expected) in table {
            let action = Action::Resource(attributes(verb, group, resource, name));
            assert_eq!(built_in(user, &action), expected, "{} {verb} {resource} {name}", user.name);
            if expected && name.is_empty() {
                let rules = built_in_rules(user);
                assert!(rules.iter().any(|rule| rule.allows(&action)), "{} {verb} {resource}", user.name);
            }
        }
        assert!(built_in(&admin, &Action::Path { verb: "get", path: "/metrics" }));
        assert!(!built_in(&node, &Action::Path { verb: "get", path: "/metrics" }));
    }

    #[test]
    fn wording() {
        let user = UserInfo::new("jane", &[]);
        let cluster = Attributes { namespace: "", ..attributes("list", "", "nodes", "") };
        let table = [
            (
                Action::Resource(attributes("list", "", "pods", "")),
                "",
                r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#,
            ),
            (
                Action::Resource(attributes("create", "", "pods/exec", "p")),
                "",
                r#"pods "p" is forbidden: User "jane" cannot create resource "pods/exec" in API group "" in the namespace "default""#,
            ),
            (
                Action::Resource(cluster),
                "",
                r#"nodes is forbidden: User "jane" cannot list resource "nodes" in API group "" at the cluster scope"#,
            ),
            (
                Action::Resource(attributes("get", "apps", "deployments", "d")),
                r#"RBAC: role.rbac.authorization.k8s.io "r" not found"#,
                r#"deployments.apps "d" is forbidden: User "jane" cannot get resource "deployments" in API group "apps" in the namespace "default": RBAC: role.rbac.authorization.k8s.io "r" not found"#,
            ),
            (
                Action::Path { verb: "get", path: "/metrics" },
                "",
                r#"forbidden: User "jane" cannot get path "/metrics""#,
            ),
        ];
        for (action, faults, expected) in table {
            let status = refuse(&user, &action, faults);
            assert_eq!((status.code, status.message.as_str()), (403, expected));
        }
    }
}
