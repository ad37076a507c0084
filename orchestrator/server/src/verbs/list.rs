//! LIST: a consistent snapshot, whole or in pages, spliced together from stored bytes.

use bytes::{Bytes, BytesMut};
use http::Response;
use serde_json::{Value, json};

use catamaran_api::meta;
use catamaran_api::status::Status;
use catamaran_store::{Entry, Range, Revision, StoreError};

use crate::body::Body;
use crate::context::Context;
use crate::negotiate::Shape;
use crate::options::{Continue, ListOptions, Match, Selection};
use crate::{custom, encode, error, keys, table};

/// How many entries are read at once while looking for objects that a selector matches.
const CHUNK: usize = 1000;

/// What a list found.
pub(crate) struct Found {
    pub(crate) entries: Vec<Entry>,
    pub(crate) revision: Revision,
    /// Where the next page begins.
    pub(crate) next: Option<Continue>,
    /// How many follow; only known without selectors.
    pub(crate) remaining: Option<u64>,
}

pub(crate) async fn list(context: &Context) -> Result<Response<Body>, Status> {
    let options = ListOptions::parse(&context.query, context.resource, false)?;
    let accepted = context.accepted()?;
    let found = find(context, &options).await?;
    let bytes = match accepted.shape {
        Shape::Whole => whole(context, &found)?,
        Shape::Table(version) => {
            let options = table::Options::parse(&context.query, version)?;
            let rows = objects(context, &found)?;
            let rows = rows
                .iter()
                .map(|object| table::row(context.printed(), object, &options, context.now))
                .collect();
            let head = (list_metadata(&found), table::Columns::Said);
            to_bytes(&table::of_rows(context.printed(), rows, head, &options))
        }
        Shape::Metadata(version) => {
            let items: Vec<Value> =
                objects(context, &found)?.iter().map(|object| table::metadata(object, version)).collect();
            to_bytes(&json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": list_metadata(&found),
                "items": items,
            }))
        }
    };
    Ok(context.respond(200, accepted.media, bytes))
}

fn to_bytes(value: &Value) -> Bytes {
    value.to_string().into()
}

/// Reads the snapshot that the options ask for.
pub(crate) async fn find(context: &Context, options: &ListOptions) -> Result<Found, Status> {
    let core = &context.core;
    let (revision, after) = snapshot(context, options)?;
    let all = keys::all(context.stored);
    let mut range = Range {
        prefix: narrowed(context, &options.selection),
        start_after: after.map(|after| format!("{all}{after}")),
        limit: options.limit,
        revision,
    };
    if let (Some(start), true) = (&range.start_after, revision.is_none() || options.continues.is_some())
        && !start.starts_with(&keys::within(context.stored, context.namespace()))
    {
        return Err(Status::bad_request(format!(
            "continue key is not valid: {start:?} is outside of the list"
        )));
    }
    if options.selection.is_everything() {
        let page = core.store.range(range).await.map_err(|error| refused(context, options, error))?;
        let next = (page.remaining > 0).then(|| next(&page.entries, page.revision, &all)).flatten();
        let remaining = (page.remaining > 0).then_some(page.remaining);
        let entries = custom::convert::entries(context, page.entries).await?;
        return Ok(Found { entries, revision: page.revision, next, remaining });
    }
    let wanted = options.limit.unwrap_or(usize::MAX);
    let mut entries = Vec::new();
    loop {
        range.limit = Some(CHUNK);
        let page = core.store.range(range.clone()).await.map_err(|error| refused(context, options, error))?;
        range.revision = Some(page.revision);
        range.start_after = page.entries.last().map(|entry| entry.key.to_string());
        let mut left = page.entries.len();
        for entry in custom::convert::entries(context, page.entries).await? {
            left -= 1;
            if !matches(context, &options.selection, &entry)? {
                continue;
            }
            entries.push(entry);
            if entries.len() == wanted && (left > 0 || page.remaining > 0) {
                let next = next(&entries, page.revision, &all);
                return Ok(Found { entries, revision: page.revision, next, remaining: None });
            }
        }
        if page.remaining == 0 {
            return Ok(Found { entries, revision: page.revision, next: None, remaining: None });
        }
    }
}

fn next(entries: &[Entry], revision: Revision, all: &str) -> Option<Continue> {
    let after = entries.last()?.key.strip_prefix(all)?.to_owned();
    Some(Continue { revision: Some(revision), after })
}

/// Revision and place that a list begins at.
fn snapshot(context: &Context, options: &ListOptions) -> Result<(Option<Revision>, Option<String>), Status> {
    if let Some(token) = &options.continues {
        return Ok((token.revision, Some(token.after.clone())));
    }
    let current = context.core.store.revision();
    match (options.resource_version, options.matching) {
        (Some(asked), _) if asked > current => Err(Status::too_large_resource_version(asked, current)),
        (Some(asked), Some(Match::Exact)) => Ok((Some(asked), None)),
        // A paged list with a revision and no word on how to match it means exactly that one.
        (Some(asked), None) if asked > 0 && options.limit.is_some() => Ok((Some(asked), None)),
        _ => Ok((None, None)),
    }
}

/// The prefix to read; a selector for one name narrows it.
fn narrowed(context: &Context, selection: &Selection) -> String {
    let namespace = context.namespace().or_else(|| selection.fields.exact("metadata.namespace"));
    let prefix = keys::within(context.stored, namespace);
    match selection.fields.exact("metadata.name") {
        Some(name) if namespace.is_some() || !context.stored.namespaced() => format!("{prefix}{name}"),
        _ => prefix,
    }
}

fn refused(context: &Context, options: &ListOptions, error: StoreError) -> Status {
    match (&error, &options.continues) {
        (StoreError::Compacted { .. }, Some(token)) => {
            let loose = Continue { revision: None, after: token.after.clone() };
            Status::continue_expired(Some(loose.to_token()))
        }
        _ => error::from_store(error, context.group_resource(), ""),
    }
}

/// Whether a stored object is selected.
fn matches(context: &Context, selection: &Selection, entry: &Entry) -> Result<bool, Status> {
    if !selection.labels.is_everything() {
        let labels = encode::labels(&entry.value);
        if !selection.labels.matches(&labels) {
            return Ok(false);
        }
    }
    if selection.fields.is_everything() {
        return Ok(true);
    }
    if let Some(paths) = simple_paths(context, selection) {
        let parts = encode::only(&entry.value, &paths).map_err(Status::internal_error)?;
        return Ok(selection.fields.matches(&parts));
    }
    Ok(selection.fields.matches(&context.decode(&entry.value, entry.mod_revision)?))
}

/// The paths that a field selector looks at, when each is just the place of its field: most are, and then the
/// rest of the object need not be built.
fn simple_paths<'a>(context: &Context, selection: &'a Selection) -> Option<Vec<Vec<&'a str>>> {
    let computed = |field: &str| matches!(field, "source" | "reportingComponent" | "status.successful");
    let fields = selection.fields.requirements().iter().map(|requirement| requirement.field.as_str());
    if context.converts() || fields.clone().any(computed) {
        return None;
    }
    Some(fields.map(|field| field.split('.').collect()).collect())
}

/// Whether a decoded object is selected.
pub(crate) fn selects(selection: &Selection, object: &Value) -> bool {
    selection.labels.matches(&meta::labels(object)) && selection.fields.matches(object)
}

fn objects(context: &Context, found: &Found) -> Result<Vec<Value>, Status> {
    found.entries.iter().map(|entry| context.decode(&entry.value, entry.mod_revision)).collect()
}

fn list_metadata(found: &Found) -> Value {
    let mut metadata = json!({"resourceVersion": found.revision.to_string()});
    if let Some(next) = &found.next {
        metadata["continue"] = next.to_token().into();
    }
    if let Some(remaining) = found.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    metadata
}

/// The list itself.
pub(crate) fn whole(context: &Context, found: &Found) -> Result<Bytes, Status> {
    let size: usize = found.entries.iter().map(|entry| entry.value.len() + 48).sum();
    let mut out = BytesMut::with_capacity(size + 256);
    let head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
        context.resource.list_kind,
        context.resource.api_version(),
        list_metadata(found)
    );
    out.extend_from_slice(head.as_bytes());
    for (at, entry) in found.entries.iter().enumerate() {
        if at > 0 {
            out.extend_from_slice(b",");
        }
        if context.converts() {
            let object = context.decode(&entry.value, entry.mod_revision)?;
            out.extend_from_slice(&to_bytes(&object));
        } else if context.resource.custom {
            // Unlike items of built-in kinds these say what they are.
            encode::splice_into(&mut out, &entry.value, entry.mod_revision);
        } else {
            encode::splice_item_into(&mut out, &entry.value, entry.mod_revision);
        }
    }
    out.extend_from_slice(b"]}");
    Ok(out.freeze())
}

/// The list of a kind that has no objects.
pub(crate) fn empty(context: &Context) -> Result<Response<Body>, Status> {
    let revision = context.core.store.revision();
    let found = Found { entries: Vec::new(), revision, next: None, remaining: None };
    Ok(context.respond(200, context.accepted()?.media, whole(context, &found)?))
}
