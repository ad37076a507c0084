//! WATCH: changes after a revision, in order, once each; with selectors, bookmarks, Tables and initial events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream;
use http::{HeaderValue, Response, header};
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until};

use catamaran_api::status::Status;
use catamaran_store::{Entry, Revision, StoreError, Watch};

use super::list;
use crate::body::{self, Body, BoxError};
use crate::context::Context;
use crate::hub::{Change, ChangeKind, Cursor, frame};
use crate::media;
use crate::negotiate::{Media, Shape};
use crate::options::{ListOptions, Selection};
use crate::{custom, encode, error, keys, table};

/// How often a quiet watch says how far it has come.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// No watch is open for longer, whatever its client asks for.
const LONGEST: u64 = 24 * 3600;
/// Changes handed to the connection at once.
const BATCH: usize = 256;
/// Annotation on the bookmark that ends the initial events.
const INITIAL_END: &str = "k8s.io/initial-events-end";

pub(crate) async fn watch(context: Context) -> Result<Response<Body>, Status> {
    let mut options = ListOptions::parse(&context.query, context.resource, true)?;
    if let Some(name) = &context.request.name {
        // One condition on the name, whoever says it.
        if !options.selection.fields.is_everything()
            && options.selection.fields.exact("metadata.name") != Some(name.as_str())
        {
            return Err(Status::bad_request("fieldSelector metadata.name doesn't match requested name"));
        }
        let fields = format!("metadata.name={name}");
        options.selection.fields =
            catamaran_api::field_selector::FieldSelector::parse(&fields, context.resource)
                .map_err(|error| Status::bad_request(error.to_string()))?;
    }
    let accepted = context.accepted_stream()?;
    let shape = match accepted.shape {
        Shape::Table(version) => {
            Form::Table(table::Options::parse(&context.query, version)?, table::Columns::Said)
        }
        Shape::Metadata(version) => Form::Metadata(version),
        Shape::Whole => Form::Whole,
    };
    let seconds = options.timeout_seconds.filter(|seconds| *seconds > 0).unwrap_or_else(default_timeout);
    let seconds = seconds.min(LONGEST);
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let (initial, after, source) = begin(&context, &options).await?;
    let watcher = Watcher {
        namespace: keys::within(context.stored, context.namespace()),
        selection: options.selection,
        media: accepted.media,
        shape,
        ready: initial,
        sent: after,
        source,
        bookmarks: options.bookmarks.then(|| Instant::now() + BOOKMARKS),
        deadline,
        stopping: context.core.stopping.subscribe(),
        ended: false,
        _gauge: context.core.metrics.watcher(),
        context,
    };
    let pieces = stream::unfold(watcher, |mut watcher| async move {
        let piece = watcher.next().await?;
        Some((Ok::<Bytes, BoxError>(piece), watcher))
    });
    let mut response = Response::new(body::stream(pieces));
    let content_type = match accepted.media {
        Media::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        Media::Json | Media::Yaml => Media::Json.as_str(),
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}

/// Between 30 and 60 minutes, so that watches do not all end at once.
fn default_timeout() -> u64 {
    1800 + u64::from(rand::random::<u16>() % 1800)
}

/// What the watcher is sent first, the revision it begins behind, and where changes come from.
async fn begin(
    context: &Context,
    options: &ListOptions,
) -> Result<(VecDeque<Piece>, Revision, Source), Status> {
    let core = &context.core;
    let refused = |error| error::from_store(error, context.group_resource(), "");
    let hub = core.hubs.of(&keys::all(context.stored)).await.map_err(refused)?;
    let mut ready = VecDeque::new();
    let from_now = matches!(options.resource_version, None | Some(0));
    let after = match (from_now, options.initial_events) {
        (_, Some(true)) | (true, None) => {
            let current = core.store.revision();
            if let Some(asked) = options.resource_version.filter(|asked| *asked > current) {
                return Err(Status::too_large_resource_version(asked, current));
            }
            let all = ListOptions {
                limit: None,
                continues: None,
                matching: None,
                resource_version: None,
                ..options.clone()
            };
            let found = list::find(context, &all).await?;
            ready.extend(found.entries.into_iter().map(Piece::Initial));
            if options.initial_events == Some(true) && options.bookmarks {
                ready.push_back(Piece::InitialEnd(found.revision));
            }
            found.revision
        }
        (true, Some(false)) => core.store.revision(),
        (false, _) => options.resource_version.unwrap_or_default(),
    };
    let source = match hub.after(after) {
        Some(cursor) => Source::Shared(cursor),
        None => match core.store.watch(&keys::all(context.stored), after).await {
            Ok(watch) => Source::History(watch),
            Err(error @ (StoreError::Compacted { .. } | StoreError::Future { .. })) => {
                ready.push_back(Piece::Error(refused(error)));
                Source::Ended
            }
            Err(error) => return Err(refused(error)),
        },
    };
    Ok((ready, after, source))
}

/// Where changes come from.
enum Source {
    /// The ring that all watchers share.
    Shared(Cursor),
    /// The store's history, for revisions that have left the ring.
    History(Watch),
    /// Nothing more comes.
    Ended,
}

/// What waits to be sent.
enum Piece {
    Initial(Entry),
    InitialEnd(Revision),
    Error(Status),
}

enum Form {
    Whole,
    Metadata(&'static str),
    Table(table::Options, table::Columns),
}

struct Watcher {
    context: Context,
    /// Only keys that start with this are of interest.
    namespace: String,
    selection: Selection,
    media: Media,
    shape: Form,
    ready: VecDeque<Piece>,
    /// The revision up to which everything was sent.
    sent: Revision,
    source: Source,
    /// When the next bookmark is due.
    bookmarks: Option<Instant>,
    deadline: Instant,
    stopping: Receiver<bool>,
    ended: bool,
    _gauge: crate::metrics::Gauge,
}

/// Why waiting ended.
enum Woken {
    Changes(Result<Vec<Arc<Change>>, Status>),
    Bookmark,
    Over,
    /// The definition of the resource changed or went.
    Gone,
}

impl Watcher {
    /// The next bytes for the connection; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if !self.ready.is_empty() {
            return Some(self.initial());
        }
        loop {
            match self.wait().await {
                Woken::Changes(Ok(changes)) => {
                    let out = match custom::convert::changes(&self.context, changes).await {
                        Ok(changes) => self.encode(&changes),
                        Err(status) => return Some(self.fail(&status)),
                    };
                    if !out.is_empty() {
                        return Some(out);
                    }
                }
                Woken::Changes(Err(status)) => return Some(self.fail(&status)),
                Woken::Bookmark => {
                    self.bookmarks = Some(Instant::now() + BOOKMARKS);
                    if let Some(bytes) = self.bookmark().await {
                        return Some(bytes);
                    }
                }
                Woken::Gone => {
                    self.ended = true;
                    let last = self.source.rest().await;
                    let last = custom::convert::changes(&self.context, last).await.unwrap_or_default();
                    return Some(self.encode(&last)).filter(|out| !out.is_empty());
                }
                Woken::Over => {
                    self.ended = true;
                    return if self.bookmarks.is_some() { self.bookmark().await } else { None };
                }
            }
        }
    }

    /// The last thing that the client hears.
    fn fail(&mut self, status: &Status) -> Bytes {
        self.ended = true;
        self.error_frame(status)
    }

    async fn wait(&mut self) -> Woken {
        let bookmark = self.bookmarks.unwrap_or_else(|| self.deadline + BOOKMARKS);
        tokio::select! {
            changes = self.source.next(&self.context, self.sent) => Woken::Changes(changes),
            () = sleep_until(self.deadline) => Woken::Over,
            _ = self.stopping.wait_for(|stopping| *stopping) => Woken::Over,
            () = sleep_until(bookmark) => Woken::Bookmark,
            () = gone(&self.context) => Woken::Gone,
        }
    }

    /// A part of what is sent before any change.
    fn initial(&mut self) -> Bytes {
        let mut out = BytesMut::new();
        for _ in 0..BATCH {
            match self.ready.pop_front() {
                Some(Piece::Initial(entry)) => {
                    if self.direct() && self.media == Media::Json {
                        out.extend_from_slice(&frame(ChangeKind::Added, &entry.value, entry.mod_revision));
                    } else if let Ok(object) = encode::decode(&entry.value, entry.mod_revision) {
                        self.event(&mut out, ChangeKind::Added, &object);
                    }
                }
                Some(Piece::InitialEnd(revision)) => {
                    out.extend_from_slice(&self.bookmark_at(revision, json!({INITIAL_END: "true"})));
                }
                Some(Piece::Error(status)) => {
                    self.ended = true;
                    out.extend_from_slice(&self.error_frame(&status));
                }
                None => break,
            }
        }
        out.freeze()
    }

    /// Whether the shared frames can be sent as they are.
    fn direct(&self) -> bool {
        matches!(self.shape, Form::Whole) && !self.context.converts()
    }

    /// The frames of the changes that this watcher is to see.
    fn encode(&mut self, changes: &[Arc<Change>]) -> Bytes {
        let _span = tracing::info_span!("watch").entered();
        let shared = self.direct() && self.selection.is_everything();
        let mut frames: Vec<Bytes> = Vec::new();
        let mut out = BytesMut::new();
        let sent = self.sent;
        for change in changes.iter().filter(|change| change.revision > sent) {
            if change.key.starts_with(&self.namespace) {
                if shared {
                    frames.push(change.frame(self.media));
                } else {
                    self.select(&mut out, change);
                }
            }
        }
        self.sent = changes.last().map_or(self.sent, |change| change.revision.max(self.sent));
        match frames.as_slice() {
            [] => out.freeze(),
            // A single shared frame goes out without a copy.
            [one] => one.clone(),
            many => many.concat().into(),
        }
    }

    /// Encodes a change as the selection sees it: what begins to match is added, what ceases to is deleted.
    fn select(&mut self, out: &mut BytesMut, change: &Change) {
        let Some(object) = change.object() else { return };
        let fits = |object: &Value| -> bool {
            if self.context.converts() {
                let mut object = object.clone();
                return self.context.to_served(&mut object).is_ok()
                    && list::selects(&self.selection, &object);
            }
            list::selects(&self.selection, object)
        };
        let now = fits(object);
        let kind = match change.kind {
            ChangeKind::Added | ChangeKind::Deleted => now.then_some(change.kind),
            ChangeKind::Modified => match (change.previous_object().is_some_and(fits), now) {
                (true, true) => Some(ChangeKind::Modified),
                (false, true) => Some(ChangeKind::Added),
                (true, false) => Some(ChangeKind::Deleted),
                (false, false) => None,
            },
        };
        match kind {
            Some(kind) if self.direct() && kind == change.kind => {
                out.extend_from_slice(&change.frame(self.media))
            }
            Some(ChangeKind::Deleted) if change.kind == ChangeKind::Modified => {
                if let Some(previous) = change.previous_object() {
                    self.event(out, ChangeKind::Deleted, previous);
                }
            }
            Some(kind) => self.event(out, kind, object),
            None => {}
        }
    }

    /// One event in the shape that was asked for.
    fn event(&mut self, out: &mut BytesMut, kind: ChangeKind, object: &Value) {
        let mut object = std::borrow::Cow::Borrowed(object);
        if self.context.converts()
            && let Err(status) = self.context.to_served(object.to_mut())
        {
            self.ended = true;
            out.extend_from_slice(&media::event(self.media, "ERROR", &status.to_value()));
            return;
        }
        let shaped = match &mut self.shape {
            Form::Whole => object.into_owned(),
            Form::Metadata(version) => table::metadata(&object, version),
            Form::Table(options, columns) => {
                let version = object["metadata"]["resourceVersion"].clone();
                let row = table::row(self.context.printed(), &object, options, jiff::Timestamp::now());
                let said = std::mem::replace(columns, table::Columns::LeftOut);
                let head = (json!({"resourceVersion": version}), said);
                table::of_rows(self.context.printed(), vec![row], head, options)
            }
        };
        out.extend_from_slice(&media::event(self.media, kind.as_str(), &shaped));
    }

    /// A bookmark at the revision up to which this watcher has everything, or changes that came meanwhile.
    async fn bookmark(&mut self) -> Option<Bytes> {
        let progress = match &self.source {
            Source::Shared(cursor) => cursor.progress().await?,
            Source::History(watch) => watch.progress()?,
            Source::Ended => return None,
        };
        let mut out = BytesMut::new();
        if let Source::Shared(cursor) = &mut self.source {
            let changes = cursor.take(usize::MAX).ok()?;
            let changes = custom::convert::changes(&self.context, changes).await.ok()?;
            out.extend_from_slice(&self.encode(&changes));
        }
        self.sent = self.sent.max(progress);
        out.extend_from_slice(&self.bookmark_at(self.sent, Value::Null));
        Some(out.freeze())
    }

    fn bookmark_at(&self, revision: Revision, annotations: Value) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if !annotations.is_null() {
            metadata["annotations"] = annotations;
        }
        let resource = self.context.resource;
        let bare = json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata});
        let object = match &self.shape {
            Form::Whole => bare,
            Form::Metadata(version) => table::metadata(&bare, version),
            Form::Table(options, _) => {
                let row = table::bookmark_row(self.context.printed(), &bare, options, self.context.now);
                let head = (json!({"resourceVersion": revision.to_string()}), table::Columns::LeftOut);
                table::of_rows(self.context.printed(), vec![row], head, options)
            }
        };
        media::event(self.media, "BOOKMARK", &object)
    }

    fn error_frame(&self, status: &Status) -> Bytes {
        media::event(self.media, "ERROR", &status.to_value())
    }
}

/// Ends when the resource is no longer what it was when the watch began; built-in ones stay.
async fn gone(context: &Context) {
    match &context.custom {
        Some(custom) => custom.ended.cancelled().await,
        None => std::future::pending().await,
    }
}

impl Source {
    /// What is there already, for a watch that ends.
    async fn rest(&mut self) -> Vec<Arc<Change>> {
        match self {
            Source::Shared(cursor) => {
                // The last deletions may not be in the ring yet.
                cursor.progress().await;
                cursor.take(usize::MAX).unwrap_or_default()
            }
            Source::History(_) | Source::Ended => Vec::new(),
        }
    }

    /// The next changes; pending for ever when nothing more comes. Who falls out of the ring reads the history
    /// until it has caught up; who is too slow even for that is cut off.
    async fn next(&mut self, context: &Context, sent: Revision) -> Result<Vec<Arc<Change>>, Status> {
        let too_slow = || Status::expired("the watcher was too slow and was cut off; list again");
        match self {
            Source::Shared(cursor) => {
                if cursor.ready().await.is_ok()
                    && let Ok(changes) = cursor.take(BATCH)
                {
                    return Ok(changes);
                }
                let history = context.core.store.watch(&keys::all(context.stored), sent).await;
                *self = Source::History(history.map_err(|_| too_slow())?);
                Ok(Vec::new())
            }
            Source::History(watch) => match watch.next().await {
                Some(Ok(events)) => {
                    let changes: Vec<_> = events.iter().map(|event| Arc::new(Change::new(event))).collect();
                    let last = changes.last().map_or(sent, |change| change.revision);
                    if watch.progress().is_some()
                        // Nothing may be awaited here: the changes in hand would be lost with a cancelled call.
                        && let Some(hub) = context.core.hubs.existing(&keys::all(context.stored))
                        && let Some(cursor) = hub.after(last)
                    {
                        *self = Source::Shared(cursor);
                    }
                    Ok(changes)
                }
                Some(Err(_)) => Err(too_slow()),
                None => Err(Status::service_unavailable("the server is shutting down")),
            },
            Source::Ended => std::future::pending().await,
        }
    }
}
