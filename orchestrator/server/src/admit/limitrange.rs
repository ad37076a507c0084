//! LimitRanges: defaults for containers, and bounds for containers, pods and claims. The words are those of
//! Kubernetes' LimitRanger.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use catamaran_api::quantity::Quantity;
use catamaran_api::resources::{self, Amounts, Side};
use catamaran_api::status::Status;
use catamaran_api::{kind, meta};
use catamaran_store::Range;

use crate::context::Context;
use crate::{encode, error, keys};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Fills in what the containers of a pod leave out.
pub(super) async fn complete(context: &Context, pod: &mut Value) -> Result<(), Status> {
    for range in load(context).await? {
        fill(pod, &range);
    }
    Ok(())
}

/// Refuses a pod or claim that is out of bounds. What an old object has already is not judged again.
pub(super) async fn check(context: &Context, new: &Value, old: Option<&Value>) -> Result<(), Status> {
    if old.is_some_and(meta::is_being_deleted) {
        return Ok(());
    }
    for range in load(context).await? {
        let mut errors = match context.stored.plural {
            "persistentvolumeclaims" => of_claim(&range, new, old),
            _ => of_pod(&range, new, old),
        };
        let mut seen = Vec::new();
        errors.retain(|error| {
            !seen.contains(error) && {
                seen.push(error.clone());
                true
            }
        });
        let why = match errors.as_slice() {
            [] => continue,
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        return Err(Status::forbidden(context.group_resource(), meta::name(new), &why));
    }
    Ok(())
}

async fn load(context: &Context) -> Result<Vec<Value>, Status> {
    let Some(resource) = kind::find("", "v1", "limitranges") else { return Ok(Vec::new()) };
    let range = Range { prefix: keys::within(resource, context.namespace()), ..Range::default() };
    let page = context.core.store.range(range).await;
    let page = page.map_err(|error| error::from_store(error, context.group_resource(), ""))?;
    let decode = |entry: catamaran_store::Entry| encode::decode(&entry.value, entry.mod_revision);
    page.entries.into_iter().map(|entry| decode(entry).map_err(Status::internal_error)).collect()
}

/// The limits of a type in a range.
fn limits<'a>(range: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    let limits = range["spec"]["limits"].as_array().into_iter().flatten();
    limits.filter(move |limit| limit["type"] == kind)
}

fn list<'a>(spec: &'a Value, field: &str) -> &'a [Value] {
    spec[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Sets defaults of a range in the containers of a pod and notes in an annotation what was set.
fn fill(pod: &mut Value, range: &Value) {
    let (mut requests, mut caps) = (Map::new(), Map::new());
    for limit in limits(range, "Container") {
        requests.extend(limit["defaultRequest"].as_object().cloned().unwrap_or_default());
        caps.extend(limit["default"].as_object().cloned().unwrap_or_default());
    }
    let mut notes = Vec::new();
    for (field, called) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = pod["spec"].get_mut(field).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            for (side, defaults) in [("requests", &requests), ("limits", &caps)] {
                let set = fill_in(container, side, defaults);
                if !set.is_empty() {
                    let name = container["name"].as_str().unwrap_or_default();
                    let what = side.trim_end_matches('s');
                    notes.push(format!("{} {what} for {called} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        meta::set_annotation(pod, ANNOTATION, &format!("LimitRanger plugin set: {}", notes.join("; ")));
    }
}

/// Sets what is not there; returns the names, in order.
fn fill_in(container: &mut Value, side: &str, defaults: &Map<String, Value>) -> Vec<String> {
    let mut set = Vec::new();
    for (name, value) in defaults {
        if container["resources"][side][name].is_null() {
            if container["resources"].is_null() {
                container["resources"] = json!({});
            }
            container["resources"][side][name] = value.clone();
            set.push(name.clone());
        }
    }
    set
}

/// Requests and limits of something that is judged.
struct Asked {
    requests: Amounts,
    limits: Amounts,
}

impl Asked {
    fn of_container(container: &Value) -> Self {
        let resources = &container["resources"];
        Asked {
            requests: resources::amounts(resources, Side::Requests),
            limits: resources::amounts(resources, Side::Limits),
        }
    }

    fn of_pod(pod: &Value) -> Self {
        let spec = &pod["spec"];
        Asked {
            requests: resources::of_pod(spec, Side::Requests),
            limits: resources::of_pod(spec, Side::Limits),
        }
    }

    fn has_same(&self, name: &str, old: Option<&Asked>) -> bool {
        old.is_some_and(|old| {
            self.requests.get(name) == old.requests.get(name) && self.limits.get(name) == old.limits.get(name)
        })
    }
}

fn of_pod(range: &Value, new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut errors = Vec::new();
    for limit in limits(range, "Container") {
        for field in ["containers", "initContainers"] {
            let before: BTreeMap<&str, Asked> = old
                .map(|old| list(&old["spec"], field))
                .unwrap_or_default()
                .iter()
                .map(|container| {
                    (container["name"].as_str().unwrap_or_default(), Asked::of_container(container))
                })
                .collect();
            for container in list(&new["spec"], field) {
                let name = container["name"].as_str().unwrap_or_default();
                bounds(limit, &Asked::of_container(container), before.get(name), &mut errors);
            }
        }
    }
    for limit in limits(range, "Pod") {
        bounds(limit, &Asked::of_pod(new), old.map(Asked::of_pod).as_ref(), &mut errors);
    }
    errors
}

/// The bounds of one limit.
fn bounds(limit: &Value, asked: &Asked, old: Option<&Asked>, errors: &mut Vec<String>) {
    let kind = limit["type"].as_str().unwrap_or_default();
    let checks: [Check; 3] = [
        ("min", |bound| bound.least()),
        ("max", |bound| bound.most()),
        ("maxLimitRequestRatio", |bound| bound.ratio()),
    ];
    for (field, check) in checks {
        for (name, enforced) in resources::list(&limit[field]) {
            if !asked.has_same(&name, old) {
                let (request, limit) = (asked.requests.get(&name), asked.limits.get(&name));
                errors.extend(check(&Bound { kind, name: &name, enforced, request, limit }));
            }
        }
    }
}

fn of_claim(range: &Value, new: &Value, old: Option<&Value>) -> Vec<String> {
    let requests = |claim: &Value| resources::amounts(&claim["spec"]["resources"], Side::Requests);
    let (asked, before) = (requests(new), old.map(requests).unwrap_or_default());
    let kind = "PersistentVolumeClaim";
    let mut errors = Vec::new();
    for limit in limits(range, kind) {
        let checks: [Check; 2] = [("min", |bound| bound.least()), ("max", |bound| bound.most_requested())];
        for (field, check) in checks {
            for (name, enforced) in resources::list(&limit[field]) {
                let request = asked.get(&name);
                if request.is_none() || request != before.get(&name) {
                    errors.extend(check(&Bound { kind, name: &name, enforced, request, limit: None }));
                }
            }
        }
    }
    errors
}

/// A field of a limit and what it means.
type Check = (&'static str, fn(&Bound<'_>) -> Option<String>);

/// One amount and the bound that is put to it.
struct Bound<'a> {
    kind: &'a str,
    name: &'a str,
    enforced: Quantity,
    request: Option<&'a Quantity>,
    limit: Option<&'a Quantity>,
}

impl Bound<'_> {
    fn says(&self, which: &str, rest: &str) -> String {
        format!("{which} {} usage per {} is {}{rest}", self.name, self.kind, self.enforced)
    }

    fn least(&self) -> Option<String> {
        match (self.request, self.limit) {
            (None, _) => Some(self.says("minimum", ".  No request is specified")),
            (Some(request), _) if *request < self.enforced => {
                Some(self.says("minimum", &format!(", but request is {request}")))
            }
            (_, Some(limit)) if *limit < self.enforced => {
                Some(self.says("minimum", &format!(", but limit is {limit}")))
            }
            _ => None,
        }
    }

    fn most(&self) -> Option<String> {
        match (self.request, self.limit) {
            (_, None) => Some(self.says("maximum", ".  No limit is specified")),
            (_, Some(limit)) if *limit > self.enforced => {
                Some(self.says("maximum", &format!(", but limit is {limit}")))
            }
            (Some(request), _) if *request > self.enforced => {
                Some(self.says("maximum", &format!(", but request is {request}")))
            }
            _ => None,
        }
    }

    fn most_requested(&self) -> Option<String> {
        match self.request {
            None => Some(self.says("maximum", ".  No request is specified")),
            Some(request) if *request > self.enforced => {
                Some(self.says("maximum", &format!(", but request is {request}")))
            }
            Some(_) => None,
        }
    }

    fn ratio(&self) -> Option<String> {
        let says = |rest: String| {
            let Bound { kind, name, enforced, .. } = self;
            Some(format!("{name} max limit to request ratio per {kind} is {enforced}, but {rest}"))
        };
        let Some(request) = self.request.filter(|request| !request.is_zero()) else {
            return says("no request is specified or request is 0".to_owned());
        };
        let Some(limit) = self.limit.filter(|limit| !limit.is_zero()) else {
            return says("no limit is specified or limit is 0".to_owned());
        };
        // Kubernetes compares floating point numbers too.
        #[allow(clippy::cast_precision_loss, reason = "a ratio of two amounts needs no nanos")]
        let ratio = limit.nanos() as f64 / request.nanos() as f64;
        #[allow(clippy::cast_precision_loss, reason = "as above")]
        let most = self.enforced.milli_value() as f64;
        if ratio * 1000.0 > most { says(format!("provided ratio is {ratio:.6}")) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(limit: Value) -> Value {
        json!({"spec": {"limits": [limit]}})
    }

    fn pod(containers: Value) -> Value {
        json!({"metadata": {}, "spec": {"containers": containers}})
    }

    #[test]
    fn defaults_are_filled_in_and_noted() {
        let range = range(json!({
            "type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "500m", "memory": "1Gi"},
        }));
        let mut given = pod(
            json!([{"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "2Gi"}}}]),
        );
        given["spec"]["initContainers"] = json!([{"name": "i", "resources": {"limits": {"cpu": "2", "memory": "2Gi"}, "requests": {"cpu": "2", "memory": "1Gi"}}}]);
        fill(&mut given, &range);
        assert_eq!(
            given["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}})
        );
        assert_eq!(
            given["spec"]["containers"][1]["resources"]["requests"],
            json!({"cpu": "1", "memory": "1Gi"})
        );
        assert_eq!(
            meta::annotation(&given, ANNOTATION),
            Some(
                "LimitRanger plugin set: cpu, memory request for container a; cpu, memory limit for container a; memory request for container b"
            )
        );
        let before = given.clone();
        fill(&mut given, &range);
        assert_eq!(given, before, "twice is the same as once");
    }

    fn both(request: &str, limit: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": request}, "limits": {"cpu": limit}}})
    }

    fn judge(table: &[(Value, Value, &str)]) {
        for (limit, containers, expected) in table {
            let said = of_pod(&range(limit.clone()), &pod(containers.clone()), None);
            assert_eq!(said.join("|"), *expected, "{limit} {containers}");
        }
    }

    #[test]
    fn ratios() {
        let limit = || json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}});
        let asks = "cpu max limit to request ratio per Container is 2, but";
        let silent = json!({"name": "c", "resources": {"requests": {"cpu": "1"}}});
        judge(&[
            (limit(), json!([both("500m", "2")]), &format!("{asks} provided ratio is 4.000000")),
            (limit(), json!([both("500m", "1")]), ""),
            (limit(), json!([both("0", "1")]), &format!("{asks} no request is specified or request is 0")),
            (limit(), json!([silent]), &format!("{asks} no limit is specified or limit is 0")),
        ]);
    }

    #[test]
    fn bounds_of_containers_and_pods() {
        let table = [
            (json!({"type": "Container", "min": {"cpu": "100m"}}), json!([both("100m", "1")]), ""),
            (
                json!({"type": "Container", "min": {"cpu": "100m"}}),
                json!([{"name": "c"}]),
                "minimum cpu usage per Container is 100m.  No request is specified",
            ),
            (
                json!({"type": "Container", "min": {"cpu": "100m"}}),
                json!([both("50m", "1")]),
                "minimum cpu usage per Container is 100m, but request is 50m",
            ),
            (
                json!({"type": "Container", "min": {"cpu": "100m"}}),
                json!([both("100m", "50m")]),
                "minimum cpu usage per Container is 100m, but limit is 50m",
            ),
            (
                json!({"type": "Container", "max": {"cpu": "1"}}),
                json!([{"name": "c"}]),
                "maximum cpu usage per Container is 1.  No limit is specified",
            ),
            (
                json!({"type": "Container", "max": {"cpu": "1"}}),
                json!([both("100m", "2")]),
                "maximum cpu usage per Container is 1, but limit is 2",
            ),
            (
                json!({"type": "Container", "max": {"cpu": "1"}}),
                json!([both("1500m", "1")]),
                "maximum cpu usage per Container is 1, but request is 1500m",
            ),
            (
                json!({"type": "Pod", "max": {"cpu": "1"}}),
                json!([both("100m", "600m"), both("100m", "600m")]),
                "maximum cpu usage per Pod is 1, but limit is 1200m",
            ),
            (
                json!({"type": "Pod", "min": {"memory": "1Gi"}}),
                json!([both("100m", "600m")]),
                "minimum memory usage per Pod is 1Gi.  No request is specified",
            ),
            (
                json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}}),
                json!([both("1", "1")]),
                "",
            ),
        ];
        judge(&table);
    }

    #[test]
    fn what_was_there_is_not_judged_again() {
        let range = range(json!({"type": "Container", "max": {"cpu": "1", "memory": "1Gi"}}));
        let of = |cpu: &str, memory: &str| {
            pod(json!([{"name": "c", "resources": {"limits": {"cpu": cpu, "memory": memory}}}]))
        };
        assert_eq!(of_pod(&range, &of("2", "1Gi"), Some(&of("2", "2Gi"))), Vec::<String>::new());
        assert_eq!(of_pod(&range, &of("3", "1Gi"), Some(&of("2", "1Gi"))).len(), 1);
    }

    #[test]
    fn bounds_of_claims() {
        let claim = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
        let bound =
            json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}});
        let range = range(bound);
        let table = [
            (claim("1Gi"), None, ""),
            (
                claim("512Mi"),
                None,
                "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 512Mi",
            ),
            (
                claim("3Gi"),
                None,
                "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi",
            ),
            (claim("3Gi"), Some(claim("3Gi")), ""),
        ];
        for (new, old, expected) in table {
            assert_eq!(of_claim(&range, &new, old.as_ref()).join("|"), expected, "{new}");
        }
    }
}
