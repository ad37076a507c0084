//! From a decoded object to the store, the same for all kinds: default, validate, admit, check preconditions,
//! write. The verbs say what changes; this file says what every change goes through.

use bytes::Bytes;
use serde_json::Value;
use tracing::Instrument;

use catamaran_api::decode::{self, ContentType, Strictness};
use catamaran_api::field_error::{ErrorType, FieldError};
use catamaran_api::kind::{GroupVersionKind, Storage};
use catamaran_api::status::{Reason, Status};
use catamaran_api::{defaults, meta, name, validate, warn};
use catamaran_store::{Entry, Expect, Put, Revision, StoreError};

use crate::authorize::{self, Action, Attributes};
use crate::context::Context;
use crate::negotiate::Media;
use crate::options::{DryRun, FieldValidation, WriteOptions};
use crate::route::Verb;
use crate::strategy::{self, Part};
use crate::{admit, convert, encode, error, fields, keys, negotiate};

/// How often a name is generated anew.
const NAME_ATTEMPTS: usize = 8;
/// How often a change is tried again on top of somebody else's.
const CONFLICT_ATTEMPTS: usize = 64;

/// What a write left behind.
pub(crate) struct Written {
    /// The stored bytes.
    pub(crate) bytes: Bytes,
    /// Their revision.
    pub(crate) revision: Revision,
    pub(crate) effect: Effect,
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Created,
    Updated,
    /// The object was waiting for this to be gone.
    Deleted,
}

/// The stored object that the path names.
pub(crate) async fn load(context: &Context) -> Result<Option<Entry>, Status> {
    let found = context.core.store.get(&context.key()).await;
    found.map_err(|error| error::from_store(error, context.group_resource(), context.name()))
}

/// The stored object that the path names, decoded in its stored form.
pub(crate) async fn load_object(context: &Context) -> Result<(Entry, Value), Status> {
    let entry = load(context).await?;
    let entry = entry.ok_or_else(|| Status::not_found(context.group_resource(), context.name()))?;
    let object = encode::decode(&entry.value, entry.mod_revision).map_err(Status::internal_error)?;
    Ok((entry, object))
}

/// How the encoding of a body is called by the decoder.
pub(crate) fn content_type(context: &Context) -> Result<ContentType, Status> {
    Ok(match negotiate::body_media(&context.headers)? {
        Media::Json => ContentType::Json,
        Media::Yaml => ContentType::Yaml,
        Media::Protobuf => ContentType::Protobuf,
    })
}

/// How the decoder is to treat unknown and duplicate fields.
pub(crate) fn strictness(options: &WriteOptions) -> Strictness {
    match options.field_validation {
        FieldValidation::Ignore => Strictness::Ignore,
        FieldValidation::Warn => Strictness::Warn,
        FieldValidation::Strict => Strictness::Strict,
    }
}

/// Decodes the body of a kind; warnings go to the caller.
pub(crate) fn decode_body(
    context: &Context,
    body: &[u8],
    kind: GroupVersionKind,
    options: &WriteOptions,
) -> Result<Value, Status> {
    let _span = tracing::info_span!("decode").entered();
    let decoded = decode::decode_kind(body, content_type(context)?, kind, strictness(options))
        .map_err(|error| Status::bad_request(error.to_string()))?;
    decoded.warnings.into_iter().for_each(|warning| context.warn(warning));
    Ok(decoded.object)
}

/// Brings the result of a patch into the form of a decoded body.
pub(crate) fn normalize(
    context: &Context,
    object: Value,
    kind: GroupVersionKind,
    options: &WriteOptions,
) -> Result<Value, Status> {
    let decoded = decode::normalize(object, kind, strictness(options))
        .map_err(|error| Status::bad_request(error.to_string()))?;
    decoded.warnings.into_iter().for_each(|warning| context.warn(warning));
    Ok(decoded.object)
}

/// Namespace and name in a body must be those of the request.
pub(crate) fn check_place(context: &Context, object: &mut Value) -> Result<(), Status> {
    let asked = context.namespace().unwrap_or_default().to_owned();
    let said = meta::namespace(object);
    if !said.is_empty() && said != asked && context.resource.namespaced() {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    // What belongs to the whole cluster is in no namespace, whatever it says.
    let namespace = if context.resource.namespaced() { Value::from(asked) } else { Value::Null };
    meta::set(object, "namespace", namespace);
    if let Some(asked) = context.request.name.as_deref() {
        let said = meta::name(object).to_owned();
        if said.is_empty() {
            meta::set(object, "name", asked);
        } else if said != asked {
            return Err(Status::bad_request(format!(
                "the name of the object ({said}) does not match the name on the URL ({asked})"
            )));
        }
    }
    Ok(())
}

/// Writes a new object.
pub(crate) async fn create(
    context: &Context,
    mut object: Value,
    options: &WriteOptions,
) -> Result<Written, Status> {
    if matches!(context.resource.storage, Storage::Transient) {
        return Err(Status::method_not_supported(context.group_resource(), "create"));
    }
    check_place(context, &mut object)?;
    if !meta::resource_version(&object).is_empty() {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let prefix = meta::generate_name(&object).to_owned();
    let generates = meta::name(&object).is_empty() && !prefix.is_empty();
    let attempts = if generates { NAME_ATTEMPTS } else { 1 };
    let mut name = meta::name(&object).to_owned();
    for _ in 0..attempts {
        let mut object = object.clone();
        if generates {
            name = name::generate(&prefix, rand::random());
            meta::set(&mut object, "name", name.as_str());
        }
        match create_named(context, object, options).await {
            // Also where the name was given: who gives a prefix as well is told to try again.
            Err(status) if !prefix.is_empty() && status.reason == Some(Reason::AlreadyExists) => {}
            done => return done,
        }
    }
    Err(Status::generate_name_conflict(context.group_resource(), &name))
}

async fn create_named(
    context: &Context,
    mut object: Value,
    options: &WriteOptions,
) -> Result<Written, Status> {
    let uid = uuid::Uuid::new_v4().to_string();
    let creation =
        meta::Creation { uid: &uid, now: context.now, namespace: context.namespace().unwrap_or_default() };
    meta::prepare_create(context.resource, &mut object, &creation);
    defaults::apply(context.resource, &mut object);
    convert::to_stored(&mut object, context.resource, context.stored);
    defaults::on_create(context.stored, &mut object);
    let admitting = admit::create(context, &mut object, options);
    let reserved = admitting.instrument(tracing::info_span!("admit")).await?;
    defaults::apply(context.stored, &mut object);
    let errors = validate::create(context.stored, &object);
    if !errors.is_empty() {
        return Err(Status::invalid(
            context.resource.group,
            context.resource.kind,
            meta::name(&object),
            &errors,
        ));
    }
    warn::object(context.stored, &object, None).into_iter().for_each(|text| context.warn(text));
    admit::check_created(context, &object, options).instrument(tracing::info_span!("admit")).await?;
    fields::created(context, &mut object, options);
    let bytes = encode::encode(&object);
    let key = keys::one(context.stored, context.namespace(), meta::name(&object));
    if options.dry_run == DryRun::All {
        admit::check_quota(context, Part::Main, (&object, None)).await?;
        let name = meta::name(&object);
        let found = context.core.store.get(&key).await;
        return match found.map_err(|error| error::from_store(error, context.group_resource(), name))? {
            Some(current) => Err(exists(context, name, Some(&current))),
            None => Ok(Written { bytes, revision: 0, effect: Effect::Created }),
        };
    }
    let put = Put { key, value: bytes, expect: Expect::Absent };
    let writing = admit::put(context, Part::Main, (&object, None), put);
    let put = writing.instrument(tracing::info_span!("store")).await;
    drop(reserved);
    match put? {
        Ok(entry) => {
            Ok(Written { bytes: entry.value, revision: entry.mod_revision, effect: Effect::Created })
        }
        Err(StoreError::Conflict { current }) => Err(exists(context, meta::name(&object), current.as_ref())),
        Err(error) => Err(error::from_store(error, context.group_resource(), meta::name(&object))),
    }
}

fn exists(context: &Context, name: &str, current: Option<&Entry>) -> Status {
    let deleting = current
        .and_then(|entry| encode::decode(&entry.value, entry.mod_revision).ok())
        .is_some_and(|object| meta::is_being_deleted(&object));
    if deleting {
        Status::being_deleted(context.group_resource(), name)
    } else {
        Status::already_exists(context.group_resource(), name)
    }
}

/// What to do when the object is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    Refuse,
    Create,
}

/// Changes an object: `change` makes the new state from the present one (`None` when there is none and it may
/// be created); it is called again when somebody else was faster.
pub(crate) async fn update(
    context: &Context,
    (part, missing): (Part, Missing),
    options: &WriteOptions,
    change: impl Fn(Option<&Value>) -> Result<Value, Status>,
) -> Result<Written, Status> {
    for _ in 0..CONFLICT_ATTEMPTS {
        let Some(entry) = load(context).await? else {
            if missing == Missing::Refuse {
                return Err(Status::not_found(context.group_resource(), context.name()));
            }
            may_create(context).await?;
            let mut object = change(None)?;
            if !meta::uid(&object).is_empty() {
                let (uid, name) = (meta::uid(&object), context.name());
                return Err(Status::uid_precondition(context.group_resource(), name, uid, ""));
            }
            meta::set(&mut object, "resourceVersion", Value::Null);
            match create(context, object, options).await {
                Err(status) if status.reason == Some(Reason::AlreadyExists) => continue,
                done => return done,
            }
        };
        match update_once(context, part, options, (&entry, &change)).await {
            Err(Retry::Conflict) => {}
            Err(Retry::Never(status)) => return Err(status),
            Ok(written) => return Ok(written),
        }
    }
    Err(Status::modified(context.group_resource(), context.name()))
}

/// Whoever changes what is not there has to have the right to create it.
async fn may_create(context: &Context) -> Result<(), Status> {
    let wanted = Attributes { verb: Verb::Create.as_str(), ..Attributes::of(&context.request, None) };
    authorize::require(&context.core, &context.user, &Action::Resource(wanted)).await
}

enum Retry {
    Conflict,
    Never(Status),
}

impl From<Status> for Retry {
    fn from(status: Status) -> Self {
        Retry::Never(status)
    }
}

async fn update_once(
    context: &Context,
    part: Part,
    options: &WriteOptions,
    (entry, change): (&Entry, &impl Fn(Option<&Value>) -> Result<Value, Status>),
) -> Result<Written, Retry> {
    let old = encode::decode(&entry.value, entry.mod_revision).map_err(Status::internal_error)?;
    let mut new = {
        // Nearly always the form that is served is the form that is kept.
        let mut served = std::borrow::Cow::Borrowed(&old);
        if context.converts() {
            convert::to_served(served.to_mut(), context.resource, context.stored);
        }
        let mut new = tracing::info_span!("merge").in_scope(|| change(Some(&served)))?;
        check_place(context, &mut new)?;
        check_preconditions(context, part, &new, &served)?;
        new
    };
    defaults::apply(context.resource, &mut new);
    convert::to_stored(&mut new, context.resource, context.stored);
    strategy::prepare_update(context.stored, part, &mut new, &old);
    let admitting = admit::update(context, part, (&mut new, &old), options);
    let reserved = admitting.instrument(tracing::info_span!("admit")).await?;
    let errors = validate::update(context.stored, &new, &old, part.written());
    if !errors.is_empty() {
        let (group, kind) = (context.resource.group, context.resource.kind);
        return Err(Status::invalid(group, kind, meta::name(&new), &errors).into());
    }
    if part == Part::Main {
        warn::object(context.stored, &new, Some(&old)).into_iter().for_each(|text| context.warn(text));
    }
    let checking = admit::check_updated(context, part, (&new, &old), options);
    checking.instrument(tracing::info_span!("admit")).await?;
    fields::updated(context, part, (&mut new, &old), options);
    let written =
        commit(context, (part, options), (entry, &old), new).instrument(tracing::info_span!("store")).await;
    drop(reserved);
    written
}

fn check_preconditions(context: &Context, part: Part, new: &Value, old: &Value) -> Result<(), Status> {
    let resource = context.group_resource();
    let (uid, version) = (meta::uid(new), meta::resource_version(new));
    if !uid.is_empty() && uid != meta::uid(old) {
        return Err(Status::uid_precondition(resource, context.name(), uid, meta::uid(old)));
    }
    if version.is_empty() || version == "0" {
        if !context.resource.unconditional_update && part != Part::Scale {
            // Kubernetes shows the number as its memory holds it, and names the resource where others name the kind.
            let error = FieldError {
                kind: ErrorType::Invalid,
                field: "metadata.resourceVersion".to_owned(),
                value: None,
                detail: "0x0: must be specified for an update".to_owned(),
            };
            let (group, plural) = (context.resource.group, context.resource.plural);
            return Err(Status::invalid(group, plural, context.name(), &[error]));
        }
        return Ok(());
    }
    if version.parse::<Revision>().is_err() {
        return Err(Status::bad_request(format!(
            "resource version {version:?} is invalid: must be a number"
        )));
    }
    if version != meta::resource_version(old) {
        return Err(Status::modified(resource, context.name()));
    }
    Ok(())
}

/// Writes the new state, removes the object when this was the last thing it waited for, or does nothing when
/// nothing changed.
async fn commit(
    context: &Context,
    (part, options): (Part, &WriteOptions),
    (entry, old): (&Entry, &Value),
    new: Value,
) -> Result<Written, Retry> {
    if meta::unchanged(&new, old) {
        let (bytes, revision) = (entry.value.clone(), entry.mod_revision);
        return Ok(Written { bytes, revision, effect: Effect::Updated });
    }
    let bytes = encode::encode(&new);
    let gone = strategy::is_gone(context.stored, &new);
    if options.dry_run == DryRun::All {
        admit::check_quota(context, part, (&new, Some(old))).await?;
        let effect = if gone { Effect::Deleted } else { Effect::Updated };
        return Ok(Written { bytes, revision: entry.mod_revision, effect });
    }
    let expect = Expect::Revision(entry.mod_revision);
    let store = &context.core.store;
    if gone {
        // In one step: were it written first, a crash in between would leave an object that nobody removes.
        let deleted = store.delete(&entry.key, expect).await.map_err(|error| retry(context, error))?;
        return Ok(Written { bytes, revision: deleted.mod_revision, effect: Effect::Deleted });
    }
    let put = Put { key: entry.key.to_string(), value: bytes, expect };
    let done = admit::put(context, part, (&new, Some(old)), put).await?;
    let done = done.map_err(|error| retry(context, error))?;
    Ok(Written { bytes: done.value, revision: done.mod_revision, effect: Effect::Updated })
}

fn retry(context: &Context, error: StoreError) -> Retry {
    match error {
        StoreError::Conflict { .. } => Retry::Conflict,
        other => Retry::Never(error::from_store(other, context.group_resource(), context.name())),
    }
}

impl Written {
    /// The answer: the object; 201 when this request created it.
    pub(crate) fn respond(
        &self,
        context: &Context,
        code: u16,
    ) -> Result<http::Response<crate::body::Body>, Status> {
        let code = if self.effect == Effect::Created { 201 } else { code };
        if self.revision == 0 {
            let mut object = context.decode(&self.bytes, 0)?;
            meta::set(&mut object, "resourceVersion", Value::Null);
            return context.value(code, &object);
        }
        context.stored(code, &self.bytes, self.revision)
    }
}
