//! Method, path and query to what is asked: pure, no look-ups. The grammar is that of Kubernetes' API
//! conventions, the deprecated `/api/v1/watch/…` paths included.

use http::Method;

use crate::query::{Plus, Query, decode};

/// What a request does, in the words of Kubernetes' authorization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// One object.
    Get,
    /// A collection.
    List,
    /// Changes of a collection or of one object.
    Watch,
    /// A new object, or a connection when the subresource is a stream.
    Create,
    /// A whole object replaced.
    Update,
    /// A part of an object changed.
    Patch,
    /// One object deleted.
    Delete,
    /// Every selected object of a collection deleted.
    DeleteCollection,
}

impl Verb {
    /// The word used in rules and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }

    /// Whether the verb changes nothing.
    pub fn reads(self) -> bool {
        matches!(self, Verb::Get | Verb::List | Verb::Watch)
    }
}

/// A request for an object or a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceRequest {
    /// What is done.
    pub verb: Verb,
    /// API group, empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace in the path. For `namespaces/NAME` itself it is NAME, as in Kubernetes.
    pub namespace: Option<String>,
    /// Plural resource name.
    pub resource: String,
    /// Object name.
    pub name: Option<String>,
    /// Subresource such as `status`.
    pub subresource: Option<String>,
    /// What follows the subresource (`proxy/…`), without a leading slash.
    pub rest: String,
}

/// The three health endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// `/healthz`
    Healthz,
    /// `/livez`
    Livez,
    /// `/readyz`
    Readyz,
}

impl Probe {
    /// The path segment.
    pub fn as_str(self) -> &'static str {
        match self {
            Probe::Healthz => "healthz",
            Probe::Livez => "livez",
            Probe::Readyz => "readyz",
        }
    }
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// An object or a collection.
    Resource(ResourceRequest),
    /// `/version`
    Version,
    /// `/healthz`, `/livez`, `/readyz`, with the name of one check.
    Health(Probe, Option<String>),
    /// `/metrics`
    Metrics,
    /// `/`
    Root,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/GROUP`
    Group(String),
    /// `/api/v1` and `/apis/GROUP/VERSION`
    GroupVersion(String, String),
    /// `/openapi/v2`
    OpenApiV2,
    /// `/openapi/v3`
    OpenApiIndex,
    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/VERSION`
    OpenApi(String, String),
    /// `/.well-known/openid-configuration`
    OpenIdConfiguration,
    /// `/openid/v1/jwks`
    JsonWebKeys,
    /// Anything else.
    Unknown,
}

/// Reads a request line.
pub fn route(method: &Method, path: &str, query: &Query) -> Route {
    let segments: Vec<String> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| decode(segment, Plus::IsPlus))
        .collect();
    let words: Vec<&str> = segments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => Route::Root,
        ["version"] => Route::Version,
        ["metrics"] => Route::Metrics,
        ["healthz", rest @ ..] => health(Probe::Healthz, rest),
        ["livez", rest @ ..] => health(Probe::Livez, rest),
        ["readyz", rest @ ..] => health(Probe::Readyz, rest),
        ["openapi", "v2"] => Route::OpenApiV2,
        ["openapi", "v3"] => Route::OpenApiIndex,
        ["openapi", "v3", "api", version] => Route::OpenApi(String::new(), (*version).to_owned()),
        ["openapi", "v3", "apis", group, version] => {
            Route::OpenApi((*group).to_owned(), (*version).to_owned())
        }
        [".well-known", "openid-configuration"] => Route::OpenIdConfiguration,
        ["openid", "v1", "jwks"] => Route::JsonWebKeys,
        ["api"] => Route::CoreVersions,
        ["apis"] => Route::Groups,
        ["apis", group] => Route::Group((*group).to_owned()),
        ["api", version] => Route::GroupVersion(String::new(), (*version).to_owned()),
        ["apis", group, version] => Route::GroupVersion((*group).to_owned(), (*version).to_owned()),
        ["api", version, rest @ ..] => resource(method, query, ("", version), rest),
        ["apis", group, version, rest @ ..] => resource(method, query, (group, version), rest),
        _ => Route::Unknown,
    }
}

fn health(probe: Probe, rest: &[&str]) -> Route {
    match rest {
        [] => Route::Health(probe, None),
        [check] => Route::Health(probe, Some((*check).to_owned())),
        _ => Route::Unknown,
    }
}

fn resource(method: &Method, query: &Query, (group, version): (&str, &str), rest: &[&str]) -> Route {
    let (legacy_watch, rest) = match rest {
        ["watch", tail @ ..] if !tail.is_empty() => (true, tail),
        _ => (false, rest),
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, resource, ..] if !is_namespace_subresource(group, resource) => {
            (Some((*namespace).to_owned()), &rest[2..])
        }
        ["namespaces", namespace, ..] if group.is_empty() => (Some((*namespace).to_owned()), rest),
        _ => (None, rest),
    };
    let Some(resource) = rest.first() else { return Route::Unknown };
    let name = rest.get(1).map(|name| (*name).to_owned());
    let below = rest.get(2).copied();
    let verb = match below {
        // What is below an object is got and never watched, whatever the query says to whom it is passed on.
        Some("proxy") if *method == Method::OPTIONS => Some(Verb::Get),
        Some(_) if *method == Method::GET || *method == Method::HEAD => Some(Verb::Get),
        _ => verb(method, query, name.is_some(), legacy_watch),
    };
    let Some(verb) = verb else { return Route::Unknown };
    Route::Resource(ResourceRequest {
        verb,
        group: group.to_owned(),
        version: version.to_owned(),
        namespace,
        resource: (*resource).to_owned(),
        name,
        subresource: below.map(str::to_owned),
        rest: rest.get(3..).unwrap_or_default().join("/"),
    })
}

fn is_namespace_subresource(group: &str, segment: &str) -> bool {
    group.is_empty() && matches!(segment, "status" | "finalize")
}

fn verb(method: &Method, query: &Query, named: bool, legacy_watch: bool) -> Option<Verb> {
    Some(match *method {
        Method::GET | Method::HEAD if legacy_watch || query.flag("watch") => Verb::Watch,
        Method::GET | Method::HEAD if named => Verb::Get,
        Method::GET | Method::HEAD => Verb::List,
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE if named => Verb::Delete,
        Method::DELETE => Verb::DeleteCollection,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: Method, uri: &str) -> Route {
        let (path, query) = uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)));
        route(&method, path, &Query::parse(query))
    }

    /// `verb group/version namespace resource name subresource rest`, with `-` for none.
    fn short(route: Route) -> String {
        match route {
            Route::Resource(r) => format!(
                "{} {}/{} {} {} {} {} {}",
                r.verb.as_str(),
                r.group,
                r.version,
                r.namespace.as_deref().unwrap_or("-"),
                r.resource,
                r.name.as_deref().unwrap_or("-"),
                r.subresource.as_deref().unwrap_or("-"),
                if r.rest.is_empty() { "-" } else { &r.rest }
            ),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn resources() {
        let table = [
            (Method::GET, "/api/v1/pods", "list /v1 - pods - - -"),
            (Method::GET, "/api/v1/namespaces/default/pods?watch=true", "watch /v1 default pods - - -"),
            (Method::GET, "/api/v1/namespaces/default/pods?watch=1", "watch /v1 default pods - - -"),
            (Method::GET, "/api/v1/namespaces/default/pods?watch=false", "list /v1 default pods - - -"),
            (Method::GET, "/api/v1/watch/namespaces/default/pods/p", "watch /v1 default pods p - -"),
            (Method::GET, "/api/v1/namespaces/default/pods/p?watch=true", "watch /v1 default pods p - -"),
            (Method::GET, "/api/v1/namespaces", "list /v1 - namespaces - - -"),
            (Method::GET, "/api/v1/namespaces/kube-system", "get /v1 kube-system namespaces kube-system - -"),
            (Method::PUT, "/api/v1/namespaces/x/finalize", "update /v1 x namespaces x finalize -"),
            (Method::PATCH, "/api/v1/namespaces/x/status", "patch /v1 x namespaces x status -"),
            (Method::POST, "/apis/apps/v1/namespaces/d/deployments", "create apps/v1 d deployments - - -"),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/d/deployments/w/scale",
                "patch apps/v1 d deployments w scale -",
            ),
            (
                Method::DELETE,
                "/apis/apps/v1/namespaces/d/deployments/w",
                "delete apps/v1 d deployments w - -",
            ),
            (
                Method::DELETE,
                "/apis/apps/v1/namespaces/d/deployments",
                "deletecollection apps/v1 d deployments - - -",
            ),
            (Method::GET, "/api/v1/nodes/n/proxy/a/b", "get /v1 - nodes n proxy a/b"),
            (Method::GET, "/api/v1/nodes/n/proxy/a?watch=true", "get /v1 - nodes n proxy a"),
            (Method::OPTIONS, "/api/v1/nodes/n/proxy/", "get /v1 - nodes n proxy -"),
            (
                Method::POST,
                "/api/v1/namespaces/d/services/https:web:443/proxy/a",
                "create /v1 d services https:web:443 proxy a",
            ),
            (
                Method::GET,
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
                "get rbac.authorization.k8s.io/v1 - clusterroles system:node - -",
            ),
            (
                Method::GET,
                "/apis/apps/v1/namespaces/status/deployments",
                "list apps/v1 status deployments - - -",
            ),
        ];
        for (method, uri, expected) in table {
            assert_eq!(short(ask(method.clone(), uri)), expected, "{method} {uri}");
        }
    }

    #[test]
    fn others() {
        let table = [
            ("/", Route::Root),
            ("/version/", Route::Version),
            ("/version", Route::Version),
            ("/api", Route::CoreVersions),
            ("/api/", Route::CoreVersions),
            ("/apis", Route::Groups),
            ("/apis/apps", Route::Group("apps".into())),
            ("/api/v1", Route::GroupVersion(String::new(), "v1".into())),
            ("/apis/apps/v1", Route::GroupVersion("apps".into(), "v1".into())),
            ("/readyz/store", Route::Health(Probe::Readyz, Some("store".into()))),
            ("/livez?verbose", Route::Health(Probe::Livez, None)),
            ("/openapi/v3", Route::OpenApiIndex),
            ("/openapi/v3/api/v1?hash=x", Route::OpenApi(String::new(), "v1".into())),
            ("/openapi/v3/apis/apps/v1", Route::OpenApi("apps".into(), "v1".into())),
            ("/openapi/v2", Route::OpenApiV2),
            ("/nope", Route::Unknown),
            ("/healthz/a/b", Route::Unknown),
        ];
        for (uri, expected) in table {
            assert_eq!(ask(Method::GET, uri), expected, "{uri}");
        }
        assert_eq!(ask(Method::OPTIONS, "/api/v1/pods"), Route::Unknown);
    }
}
