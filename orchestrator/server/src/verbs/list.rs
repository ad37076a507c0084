//! LIST: a consistent snapshot, whole or in pages, spliced together from stored bytes.

use bytes::{Bytes, BytesMut};
use http::Response;
use serde_json::{Value, json};

use catamaran_api::status::Status;
use catamaran_api::{meta, protobuf};
use catamaran_store::{Entry, Range, Revision, StoreError};

use crate::body::Body;
use crate::context::Context;
use crate::media::{self, Layout};
use crate::negotiate::{Accepted, Media, Shape};
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
    let accepted = context.accepted()?;
    let options = ListOptions::parse(&context.query, context.resource, false)?;
    let found = find(context, &options).await?;
    answer(context, accepted, &found)
}

/// The answer with what was found.
pub(crate) fn answer(context: &Context, accepted: Accepted, found: &Found) -> Result<Response<Body>, Status> {
    let as_it_is = accepted == Accepted { media: Media::Json, shape: Shape::Whole };
    if as_it_is && context.layout() == Layout::Compact {
        return Ok(context.respond(200, accepted.media, whole(context, found)?));
    }
    let decode = |entry: &Entry| context.decode(&entry.value, entry.mod_revision);
    of_values(context, accepted, list_metadata(found), found.entries.iter().map(decode))
}

/// The answer with objects that are values, in any form.
pub(crate) fn of_values(
    context: &Context,
    accepted: Accepted,
    metadata: Value,
    objects: impl Iterator<Item = Result<Value, Status>>,
) -> Result<Response<Body>, Status> {
    let resource = context.resource;
    let (kind, api_version) = match accepted.shape {
        Shape::Metadata(version) => ("PartialObjectMetadataList", format!("meta.k8s.io/{version}")),
        Shape::Whole | Shape::Table(_) => (resource.list_kind, resource.api_version()),
    };
    let shaped = objects.map(|object| {
        let object = object?;
        Ok(match accepted.shape {
            Shape::Metadata(version) => table::metadata(&object, version),
            Shape::Whole | Shape::Table(_) => object,
        })
    });
    let bytes = match (accepted.media, accepted.shape) {
        (Media::Protobuf, _) => messages((&api_version, kind), &metadata, shaped)?,
        (media, Shape::Table(version)) => {
            let options = table::Options::parse(&context.query, version)?;
            let row = |object: Result<Value, Status>| {
                Ok(table::row(context.printed(), &object?, &options, context.now))
            };
            let rows = shaped.map(row).collect::<Result<_, Status>>()?;
            let table = table::of_rows(context.printed(), rows, (metadata, table::Columns::Said), &options);
            media::object(media, context.layout(), &table)?
        }
        (media, shape) => {
            let items = shaped
                .map(|object| Ok(if resource.custom { object? } else { item(shape, object?) }))
                .collect::<Result<Vec<_>, Status>>()?;
            let list = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items});
            media::object(media, context.layout(), &list)?
        }
    };
    Ok(context.respond(200, accepted.media, bytes))
}

/// An object inside of its list, which says for all what they are.
fn item(shape: Shape, mut object: Value) -> Value {
    if let (Shape::Whole, Some(fields)) = (shape, object.as_object_mut()) {
        fields.retain(|name, _| name != "kind" && name != "apiVersion");
    }
    object
}

/// A list in protobuf, item by item.
fn messages(
    (api_version, kind): (&str, &str),
    metadata: &Value,
    objects: impl Iterator<Item = Result<Value, Status>>,
) -> Result<Bytes, Status> {
    let refused = |error| media::refused(&error);
    let mut list = protobuf::List::new(api_version, kind, metadata).map_err(refused)?;
    for object in objects {
        list.push(&object?).map_err(refused)?;
    }
    Ok(list.finish().into())
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
            "invalid continue token: continue key is not valid: {start:?} is outside of the list"
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
        (StoreError::Compacted { .. }, None) => {
            Status::expired("The resourceVersion for the provided list is too old.")
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

/// The list itself, as JSON.
fn whole(context: &Context, found: &Found) -> Result<Bytes, Status> {
    let resource = context.resource;
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
            let object = if resource.custom { object } else { item(Shape::Whole, object) };
            out.extend_from_slice(object.to_string().as_bytes());
        } else if resource.custom {
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
    answer(context, context.accepted()?, &found)
}
