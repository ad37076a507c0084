//! Query parameters of reads and writes, checked as Kubernetes checks them. Pure.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use catamaran_api::field_error::{FieldError, Path};
use catamaran_api::field_selector::FieldSelector;
use catamaran_api::kind::Resource;
use catamaran_api::selector::LabelSelector;
use catamaran_api::status::Status;
use catamaran_store::Revision;

use crate::query::Query;

/// How the resourceVersion of a list is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    Exact,
    NotOlderThan,
}

/// Which objects a list or watch is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
}

impl Selection {
    /// Reads `labelSelector` and `fieldSelector`; a name in the path is one more condition.
    pub(crate) fn parse(query: &Query, resource: &Resource) -> Result<Self, Status> {
        let labels = match query.get("labelSelector") {
            Some(text) => {
                LabelSelector::parse(text).map_err(|error| Status::bad_request(error.to_string()))?
            }
            None => LabelSelector::everything(),
        };
        let fields = match query.get("fieldSelector") {
            Some(text) => FieldSelector::parse(text, resource)
                .map_err(|error| Status::bad_request(error.to_string()))?,
            None => FieldSelector::default(),
        };
        Ok(Selection { labels, fields })
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }
}

/// Parameters of list, watch and deletecollection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListOptions {
    pub(crate) selection: Selection,
    pub(crate) limit: Option<usize>,
    pub(crate) continues: Option<Continue>,
    pub(crate) resource_version: Option<Revision>,
    pub(crate) matching: Option<Match>,
    pub(crate) initial_events: Option<bool>,
    pub(crate) bookmarks: bool,
    pub(crate) timeout_seconds: Option<u64>,
}

impl ListOptions {
    /// Reads and checks the parameters of a list (`watch` false) or of a watch.
    pub(crate) fn parse(query: &Query, resource: &Resource, watch: bool) -> Result<Self, Status> {
        let resource_version = match query.get("resourceVersion") {
            Some(text) => Some(text.parse::<Revision>().map_err(|_| {
                Status::bad_request(format!("invalid resource version: {text:?} is no number"))
            })?),
            None => None,
        };
        check_match(query, watch)?;
        let continues = match query.get("continue") {
            // A watch has no pages.
            Some(token) if !watch => Some(Continue::parse(token)?),
            _ => None,
        };
        if continues.is_some() && resource_version.is_some_and(|version| version != 0) {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        Ok(ListOptions {
            selection: Selection::parse(query, resource)?,
            limit: number(query, "limit")?
                .filter(|limit| *limit > 0)
                .and_then(|limit| usize::try_from(limit).ok()),
            continues,
            resource_version,
            matching: match query.get("resourceVersionMatch") {
                Some("Exact") => Some(Match::Exact),
                Some(_) => Some(Match::NotOlderThan),
                None => None,
            },
            initial_events: query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents")),
            bookmarks: query.flag("allowWatchBookmarks"),
            timeout_seconds: number(query, "timeoutSeconds")?,
        })
    }
}

/// The rules for `resourceVersionMatch` and `sendInitialEvents`.
fn check_match(query: &Query, watch: bool) -> Result<(), Status> {
    let wanted = query.get("resourceVersionMatch");
    let initial = query.get("sendInitialEvents").is_some();
    let errors =
        if watch { watch_errors(query, wanted, initial) } else { list_errors(query, wanted, initial) };
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "ListOptions", "", &errors)) }
}

const MATCH: Path<'static> = Path::root("resourceVersionMatch");

fn list_errors(query: &Query, wanted: Option<&str>, initial: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(wanted) = wanted {
        let mut forbid = |why: &str| errors.push(FieldError::forbidden(&MATCH, why));
        if query.get("resourceVersion").is_none() {
            forbid("resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if query.get("continue").is_some() {
            forbid("resourceVersionMatch is forbidden when continue is provided");
        }
        if wanted == "Exact" && query.get("resourceVersion") == Some("0") {
            forbid("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
        if !matches!(wanted, "Exact" | "NotOlderThan") {
            errors.push(FieldError::not_supported(&MATCH, wanted, &["Exact", "NotOlderThan", ""]));
        }
    }
    if initial {
        let path = Path::root("sendInitialEvents");
        errors.push(FieldError::forbidden(&path, "sendInitialEvents is forbidden for list"));
    }
    errors
}

fn watch_errors(query: &Query, wanted: Option<&str>, initial: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if initial && wanted != Some("NotOlderThan") {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(FieldError::forbidden(&MATCH, why));
    }
    let Some(wanted) = wanted else { return errors };
    if !initial {
        let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
        errors.push(FieldError::forbidden(&MATCH, why));
    }
    if wanted != "NotOlderThan" {
        errors.push(FieldError::not_supported(&MATCH, wanted, &["NotOlderThan"]));
    }
    if query.get("continue").is_some() {
        let why = "resourceVersionMatch is forbidden when continue is provided";
        errors.push(FieldError::forbidden(&MATCH, why));
    }
    errors
}

fn number(query: &Query, name: &str) -> Result<Option<u64>, Status> {
    Ok(signed(query, name)?.and_then(|number| u64::try_from(number).ok()))
}

fn signed(query: &Query, name: &str) -> Result<Option<i64>, Status> {
    let Some(text) = query.get(name) else { return Ok(None) };
    let number = text.parse();
    number
        .map(Some)
        .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
}

/// A continue token: where the next page of a list begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Continue {
    /// The snapshot; `None` is a list that goes on with the present state.
    pub(crate) revision: Option<Revision>,
    /// Key of the last object of the page before, below the resource's prefix.
    pub(crate) after: String,
}

#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

impl Continue {
    /// The opaque form.
    pub(crate) fn to_token(&self) -> String {
        let token = Token {
            v: TOKEN_VERSION.to_owned(),
            rv: self.revision.map_or(-1, |revision| i64::try_from(revision).unwrap_or(i64::MAX)),
            start: format!("{}\0", self.after),
        };
        BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("strings and a number"))
    }

    fn parse(text: &str) -> Result<Self, Status> {
        let refuse = |why: &str| {
            Status::bad_request(format!("invalid continue token: continue key is not valid{why}"))
        };
        let bytes = BASE64_URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('='))
            .map_err(|error| refuse(&format!(": {error}")))?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|error| refuse(&format!(": {error}")))?;
        if token.v != TOKEN_VERSION {
            return Err(refuse(&format!(": server does not recognize this encoded version {}", token.v)));
        }
        if token.rv == 0 {
            return Err(refuse(": incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        let after = token.start.trim_end_matches('\0').to_owned();
        if after.is_empty() {
            return Err(refuse(": encoded start key empty (version meta.k8s.io/v1)"));
        }
        // No token leads out of the list that it is for.
        if after.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(refuse(&format!(": {}", token.start)));
        }
        // Any negative revision goes on with the present state.
        Ok(Continue { revision: Revision::try_from(token.rv).ok(), after })
    }
}

/// Whether a write is only tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DryRun {
    No,
    All,
}

/// What happens with unknown and duplicate fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Parameters of create, update and patch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: DryRun,
    pub(crate) field_manager: Option<String>,
    pub(crate) field_validation: FieldValidation,
    pub(crate) force: Option<bool>,
    /// Whether the write is a server-side apply, which keeps the books on fields itself.
    pub(crate) applies: bool,
}

impl WriteOptions {
    /// Reads and checks; `kind` is the options' name in messages (`CreateOptions`, …).
    pub(crate) fn parse(query: &Query, kind: &str) -> Result<Self, Status> {
        let mut errors = Vec::new();
        let dry_run = dry_run(query.all("dryRun").filter(|value| !value.is_empty()), &mut errors);
        let field_validation = match query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                let path = Path::root("fieldValidation");
                errors.push(FieldError::not_supported(&path, other, &["Ignore", "Strict", "Warn"]));
                FieldValidation::Warn
            }
        };
        let field_manager = query.get("fieldManager").map(str::to_owned);
        if let Some(manager) = &field_manager {
            let path = Path::root("fieldManager");
            if manager.chars().count() > 128 {
                errors.push(FieldError::too_long(&path, 128));
            } else if manager.chars().any(char::is_control) {
                errors.push(FieldError::invalid(
                    &path,
                    manager.as_str(),
                    "should only contain printable characters",
                ));
            }
        }
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", kind, "", &errors));
        }
        let force = query.get("force").map(|_| query.flag("force"));
        Ok(WriteOptions { dry_run, field_manager, field_validation, force, applies: false })
    }
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut Vec<FieldError>) -> DryRun {
    let values: Vec<&str> = values.collect();
    if let Some(bad) = values.iter().find(|value| **value != "All") {
        errors.push(FieldError::not_supported(&Path::root("dryRun"), *bad, &["All"]));
    }
    if values.is_empty() { DryRun::No } else { DryRun::All }
}

/// What becomes of an owner's dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    Orphan,
    Background,
    Foreground,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeleteBody {
    grace_period_seconds: Option<i64>,
    propagation_policy: Option<String>,
    orphan_dependents: Option<bool>,
    preconditions: Option<Preconditions>,
    dry_run: Option<Vec<String>>,
}

/// What a deletion demands of the object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Preconditions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
}

/// Options of a deletion, from the body or from query parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_seconds: Option<i64>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) preconditions: Preconditions,
    pub(crate) dry_run: DryRun,
    /// The old way to ask for dependents to go (`orphanDependents=false`), whose answer may come before they have.
    orphans_nobody: bool,
}

impl DeleteOptions {
    /// The code of the answer when the object is still there.
    pub(crate) fn code_while_waiting(&self) -> u16 {
        if self.orphans_nobody { 202 } else { 200 }
    }

    /// From a decoded `DeleteOptions` (null when there is no body) and the query.
    pub(crate) fn parse(body: serde_json::Value, query: &Query) -> Result<Self, Status> {
        let empty = body.as_object().is_none_or(serde_json::Map::is_empty);
        let mut wanted: DeleteBody = if empty {
            DeleteBody::default()
        } else {
            serde_json::from_value(body)
                .map_err(|error| Status::bad_request(format!("the DeleteOptions cannot be read: {error}")))?
        };
        if empty {
            wanted.grace_period_seconds = signed(query, "gracePeriodSeconds")?;
            wanted.propagation_policy = query.get("propagationPolicy").map(str::to_owned);
            wanted.orphan_dependents = query.get("orphanDependents").map(|_| query.flag("orphanDependents"));
        }
        let mut errors = Vec::new();
        let values: Vec<String> = match wanted.dry_run {
            Some(values) => values,
            None => query.all("dryRun").filter(|value| !value.is_empty()).map(str::to_owned).collect(),
        };
        let dry_run = dry_run(values.iter().map(String::as_str), &mut errors);
        let propagation =
            propagation(wanted.propagation_policy.as_deref(), wanted.orphan_dependents, &mut errors);
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors));
        }
        Ok(DeleteOptions {
            grace_seconds: wanted.grace_period_seconds.map(|grace| if grace < 0 { 1 } else { grace }),
            propagation,
            preconditions: wanted.preconditions.unwrap_or_default(),
            dry_run,
            orphans_nobody: wanted.orphan_dependents == Some(false),
        })
    }
}

fn propagation(
    policy: Option<&str>,
    orphan: Option<bool>,
    errors: &mut Vec<FieldError>,
) -> Option<Propagation> {
    let path = Path::root("propagationPolicy");
    match (policy, orphan) {
        (Some(policy), Some(_)) => {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid(&path, policy, why));
            None
        }
        (Some("Orphan"), None) | (None, Some(true)) => Some(Propagation::Orphan),
        (Some("Background"), None) | (None, Some(false)) => Some(Propagation::Background),
        (Some("Foreground"), None) => Some(Propagation::Foreground),
        (Some(policy), None) => {
            errors.push(FieldError::not_supported(
                &path,
                policy,
                &["Foreground", "Background", "Orphan", "nil"],
            ));
            None
        }
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use catamaran_api::kind;
    use serde_json::json;

    use super::*;

    fn list(raw: &str, watch: bool) -> Result<ListOptions, u16> {
        let pods = kind::find("", "v1", "pods").unwrap();
        ListOptions::parse(&Query::parse(Some(raw)), pods, watch).map_err(|status| status.code)
    }

    #[test]
    fn resource_version_match() {
        let table = [
            ("resourceVersionMatch=Exact", false, Some(422)),
            ("resourceVersionMatch=Exact&resourceVersion=0", false, Some(422)),
            ("resourceVersionMatch=Exact&resourceVersion=5", false, None),
            ("resourceVersionMatch=NotOlderThan&resourceVersion=0", false, None),
            ("resourceVersionMatch=Some&resourceVersion=5", false, Some(422)),
            ("sendInitialEvents=true", false, Some(422)),
            ("sendInitialEvents=true", true, Some(422)),
            ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", true, None),
            ("sendInitialEvents=true&resourceVersionMatch=Exact", true, Some(422)),
            ("resourceVersionMatch=NotOlderThan&resourceVersion=1", true, Some(422)),
            ("resourceVersion=abc", false, Some(400)),
            ("labelSelector=a+in", false, Some(400)),
            ("fieldSelector=spec.nope=1", false, Some(400)),
            ("continue=nonsense", false, Some(400)),
            ("limit=x", false, Some(400)),
        ];
        for (raw, watch, expected) in table {
            assert_eq!(list(raw, watch).err(), expected, "{raw}");
        }
        assert_eq!(list("limit=0", false).unwrap().limit, None);
        assert_eq!(
            list("sendInitialEvents=false&resourceVersionMatch=NotOlderThan", true).unwrap().initial_events,
            Some(false)
        );
    }

    #[test]
    fn continue_tokens() {
        let token = Continue { revision: Some(7), after: "ns/name".into() };
        assert_eq!(Continue::parse(&token.to_token()).unwrap(), token);
        let loose = Continue { revision: None, after: "n".into() };
        assert_eq!(Continue::parse(&loose.to_token()).unwrap(), loose);
        for start in ["../x", "", "/etc", "a//b"] {
            let bad = BASE64_URL_SAFE_NO_PAD
                .encode(json!({"v": TOKEN_VERSION, "rv": 1, "start": start}).to_string());
            assert_eq!(Continue::parse(&bad).unwrap_err().code, 400, "{start}");
        }
    }

    #[test]
    fn writes() {
        let parse = |raw: &str| {
            WriteOptions::parse(&Query::parse(Some(raw)), "CreateOptions").map_err(|status| status.code)
        };
        assert_eq!(parse("dryRun=All").unwrap().dry_run, DryRun::All);
        assert_eq!(parse("dryRun=Some").unwrap_err(), 422);
        assert_eq!(parse("fieldValidation=Strict").unwrap().field_validation, FieldValidation::Strict);
        assert_eq!(parse("fieldValidation=No").unwrap_err(), 422);
        assert_eq!(parse(&format!("fieldManager={}", "x".repeat(129))).unwrap_err(), 422);
        assert_eq!(parse("").unwrap().dry_run, DryRun::No);
    }

    #[test]
    fn deletions() {
        let parse =
            |body, raw| DeleteOptions::parse(body, &Query::parse(Some(raw))).map_err(|status| status.code);
        let options =
            parse(json!({"gracePeriodSeconds": -5, "propagationPolicy": "Foreground"}), "").unwrap();
        assert_eq!((options.grace_seconds, options.propagation), (Some(1), Some(Propagation::Foreground)));
        let options = parse(json!(null), "gracePeriodSeconds=3&propagationPolicy=Orphan&dryRun=All").unwrap();
        assert_eq!((options.grace_seconds, options.dry_run), (Some(3), DryRun::All));
        assert_eq!(parse(json!({"propagationPolicy": "X"}), "").unwrap_err(), 422);
        assert_eq!(
            parse(json!({"propagationPolicy": "Orphan", "orphanDependents": true}), "").unwrap_err(),
            422
        );
        let options = parse(json!({"preconditions": {"uid": "u"}}), "").unwrap();
        assert_eq!(options.preconditions.uid.as_deref(), Some("u"));
    }
}
