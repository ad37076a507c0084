//! Version, health, the list of paths, the issuer's configuration.

use std::sync::Arc;

use http::{HeaderValue, Response, header};
use serde_json::json;

use crate::body::{self, Body};
use crate::core::Core;
use crate::query::Query;
use crate::route::Probe;
use crate::token::ISSUER;

/// Version of the Kubernetes API that is served.
const MAJOR: &str = "1";
const MINOR: &str = "33";

/// `/version`.
pub(crate) fn version() -> Response<Body> {
    let version = json!({
        "major": MAJOR,
        "minor": MINOR,
        "gitVersion": format!("v{MAJOR}.{MINOR}.0+catamaran-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
    });
    body::json(200, version.to_string())
}

/// The checks of a probe: name and whether it is fine.
fn checks(core: &Core, probe: Probe) -> Vec<(&'static str, bool)> {
    let mut checks = vec![("ping", true), ("store", core.store.revision() > 0)];
    if probe != Probe::Livez {
        checks.push(("shutdown", !*core.stopping.borrow()));
    }
    checks
}

/// `/healthz`, `/livez`, `/readyz`, whole or one check.
pub(crate) fn health(core: &Arc<Core>, probe: Probe, check: Option<&str>, query: &Query) -> Response<Body> {
    let excluded: Vec<&str> = query.all("exclude").collect();
    let mut checks = checks(core, probe);
    if let Some(wanted) = check {
        checks.retain(|(name, _)| *name == wanted);
        if checks.is_empty() {
            return crate::error::page_not_found();
        }
    }
    let good = checks.iter().all(|(name, fine)| *fine || excluded.contains(name));
    let code = if good { 200 } else { 500 };
    if good && !query.flag("verbose") {
        return body::typed(code, "text/plain; charset=utf-8", "ok");
    }
    let mut text = String::new();
    for (name, fine) in checks {
        let line = match (fine, excluded.contains(&name)) {
            (_, true) => format!("[+]{name} excluded: ok\n"),
            (true, false) => format!("[+]{name} ok\n"),
            (false, false) => format!("[-]{name} failed: reason withheld\n"),
        };
        text.push_str(&line);
    }
    text.push_str(&format!("{} check {}\n", probe.as_str(), if good { "passed" } else { "failed" }));
    body::typed(code, "text/plain; charset=utf-8", text)
}

/// `/`: the paths there are.
pub(crate) fn root(more: &[catamaran_api::kind::Group]) -> Response<Body> {
    let mut paths: Vec<String> = ["/api", "/api/v1", "/apis"].map(str::to_owned).to_vec();
    for group in catamaran_api::kind::groups().iter().chain(more).filter(|group| !group.name.is_empty()) {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions.iter().map(|version| format!("/apis/{}/{version}", group.name)));
    }
    paths.extend(
        ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
            .map(str::to_owned),
    );
    body::json(200, json!({"paths": paths}).to_string())
}

/// `/.well-known/openid-configuration`.
pub(crate) fn openid_configuration() -> Response<Body> {
    let configuration = json!({
        "issuer": ISSUER, "jwks_uri": format!("{ISSUER}/openid/v1/jwks"),
        "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    });
    for_a_while(body::json(200, configuration.to_string()))
}

/// `/openid/v1/jwks`: the keys that tokens are signed with.
pub(crate) fn key_set(core: &Core) -> Response<Body> {
    for_a_while(body::typed(200, "application/jwk-set+json", core.tokens.key_set().to_string()))
}

/// Whoever checks tokens may keep this for an hour.
fn for_a_while(mut response: Response<Body>) -> Response<Body> {
    let value = HeaderValue::from_static("public, max-age=3600");
    response.headers_mut().insert(header::CACHE_CONTROL, value);
    response
}
