//! Checks and additions between decoding and the store, one file each. Their order is Kubernetes': what completes an
//! object, mutating webhooks, (validation), what only judges, validating webhooks; quotas last, in one step with the
//! write.

mod ingress;
mod limitrange;
mod namespace;
mod noderestriction;
mod pod;
mod podsecurity;
mod priority;
mod quota;
mod runtimeclass;
mod service;
mod serviceaccount;
mod storage;
mod tolerations;
mod webhook;

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{Mutex, OwnedMutexGuard};

use catamaran_api::kind::{self, GroupVersionKind};
use catamaran_api::meta;
use catamaran_api::status::Status;

use self::noderestriction::Doing;
use self::webhook::{Admission, Outcome};
use crate::context::Context;
use crate::options::{DryRun, WriteOptions};
use crate::route::Verb;
use crate::strategy::{self, Part};
use crate::subresources::scale;
use crate::{encode, error, keys, rbac};

pub(crate) use noderestriction::eviction;
pub(crate) use quota::{Locks, check as check_quota, put};
pub(crate) use webhook::{Operation, Webhooks};

/// Lets one request at a time choose addresses and ports. What is taken is read from the stored Services, so
/// nothing is lost with the process.
#[derive(Default)]
pub(crate) struct Allocator(Arc<Mutex<()>>);

/// Held from the choice of an address until the object is stored.
pub(crate) type Reserved = Option<OwnedMutexGuard<()>>;

impl Allocator {
    async fn reserve(&self) -> OwnedMutexGuard<()> {
        self.0.clone().lock_owned().await
    }
}

/// Completes a new object, or refuses it.
pub(crate) async fn create(
    context: &Context,
    object: &mut Value,
    options: &WriteOptions,
) -> Result<Reserved, Status> {
    namespace::exists(context, object).await?;
    noderestriction::check(context, Doing::Create(object)).await?;
    complete(context, object).await?;
    let name = meta::name(object).to_owned();
    let admission = creation(context, &name, options);
    let mut hooks = admission.mutating().await?;
    if hooks.first(object, &Value::Null).await? == Outcome::Changed {
        complete(context, object).await?;
        hooks.second(object, &Value::Null).await?;
    }
    match (context.stored.group, context.stored.plural) {
        ("", "pods") => {
            pod::complete(object);
            Ok(None)
        }
        ("", "services") => service::admit(context, object, None).await,
        (rbac::GROUP, _) => rbac::escalate::check(context, object, None).await.map(|()| None),
        _ => Ok(None),
    }
}

/// What the server adds to a new object. Doing it twice changes nothing.
async fn complete(context: &Context, object: &mut Value) -> Result<(), Status> {
    match (context.stored.group, context.stored.plural) {
        ("", "pods") => {
            limitrange::complete(context, object).await?;
            serviceaccount::admit(context, object).await?;
            priority::admit(context, object).await?;
            tolerations::admit(object);
            runtimeclass::admit(context, object).await
        }
        ("", "persistentvolumeclaims") => {
            meta::add_finalizer(object, storage::OF_CLAIMS);
            storage::default_class(context, object).await
        }
        ("", "persistentvolumes") => {
            meta::add_finalizer(object, storage::OF_VOLUMES);
            Ok(())
        }
        ("networking.k8s.io", "ingresses") => ingress::default_class(context, object).await,
        _ => Ok(()),
    }
}

/// Judges a new object that is complete and valid.
pub(crate) async fn check_created(
    context: &Context,
    object: &Value,
    options: &WriteOptions,
) -> Result<(), Status> {
    judge(context, Part::Main, (object, None)).await?;
    creation(context, meta::name(object), options).validate(object, &Value::Null).await
}

fn creation<'a>(context: &'a Context, name: &'a str, options: &WriteOptions) -> Admission<'a> {
    Admission {
        context,
        operation: Operation::Create,
        subresource: "",
        kind: None,
        name,
        dry_run: options.dry_run,
        options: webhook::options("CreateOptions", options.field_manager.as_deref(), options.dry_run),
    }
}

async fn judge(context: &Context, part: Part, (new, old): (&Value, Option<&Value>)) -> Result<(), Status> {
    let bounded = match (context.stored.group, context.stored.plural, part) {
        ("", "pods", Part::Main) => old.is_none(),
        ("", "pods", Part::Resize) | ("", "persistentvolumeclaims", Part::Main) => true,
        _ => false,
    };
    if bounded {
        limitrange::check(context, new, old).await?;
    }
    podsecurity::check(context, part, (new, old)).await
}

/// Completes a changed object, or refuses the change.
pub(crate) async fn update(
    context: &Context,
    part: Part,
    (new, old): (&mut Value, &Value),
    options: &WriteOptions,
) -> Result<Reserved, Status> {
    noderestriction::check(context, Doing::Update(part, new, old)).await?;
    if (context.stored.group, context.stored.plural) == ("", "pods") {
        match part {
            Part::Main => priority::keep(new, old),
            Part::Resize => limitrange::complete(context, new).await?,
            _ => {}
        }
    }
    let admission = change(context, part, options);
    let mut hooks = admission.mutating().await?;
    if hooks.any() && asks(part) {
        let (mut shown, before) = (shown(part, new), self::shown(part, old));
        if hooks.first(&mut shown, &before).await? == Outcome::Changed {
            hooks.second(&mut shown, &before).await?;
            take(context, part, (new, old), shown);
        }
    }
    match (context.stored.group, context.stored.plural, part) {
        (rbac::GROUP, _, Part::Main) => rbac::escalate::check(context, new, Some(old)).await.map(|()| None),
        ("", "services", Part::Main) => service::admit(context, new, Some(old)).await,
        ("", "persistentvolumeclaims", Part::Main) => storage::growth(context, new, old).await.map(|()| None),
        _ => Ok(None),
    }
}

/// Judges a change that is complete and valid.
pub(crate) async fn check_updated(
    context: &Context,
    part: Part,
    (new, old): (&Value, &Value),
    options: &WriteOptions,
) -> Result<(), Status> {
    judge(context, part, (new, Some(old))).await?;
    let admission = change(context, part, options);
    if !asks(part) || !admission.validates().await? {
        return Ok(());
    }
    admission.validate(&shown(part, new), &shown(part, old)).await
}

/// Who binds a pod has asked about the Binding.
fn asks(part: Part) -> bool {
    part != Part::Binding
}

fn change<'a>(context: &'a Context, part: Part, options: &WriteOptions) -> Admission<'a> {
    let kind = if context.request.verb == Verb::Patch { "PatchOptions" } else { "UpdateOptions" };
    Admission {
        context,
        operation: Operation::Update,
        subresource: part.subresource(),
        kind: (part == Part::Scale).then_some(scale::KIND),
        name: context.name(),
        dry_run: options.dry_run,
        options: webhook::options(kind, options.field_manager.as_deref(), options.dry_run),
    }
}

/// What a webhook sees of an object: all of it, or its scale.
fn shown(part: Part, object: &Value) -> Value {
    if part == Part::Scale { scale::of(object) } else { object.clone() }
}

/// Takes over what webhooks made of it.
fn take(context: &Context, part: Part, (new, old): (&mut Value, &Value), shown: Value) {
    if part == Part::Scale {
        new["spec"]["replicas"] = shown["spec"]["replicas"].clone();
    } else {
        *new = shown;
    }
    strategy::prepare_update(context.stored, part, new, old);
}

/// Refuses deletions.
pub(crate) async fn delete(context: &Context, old: &Value, dry_run: DryRun) -> Result<(), Status> {
    namespace::deletable(context)?;
    // An eviction was judged as such.
    if context.request.subresource.is_some() {
        return Ok(());
    }
    noderestriction::check(context, Doing::Delete(old)).await?;
    let options = webhook::options("DeleteOptions", None, dry_run);
    let (operation, name) = (Operation::Delete, context.name());
    let admission = Admission { context, operation, subresource: "", kind: None, name, dry_run, options };
    admission.mutating().await?.first(&mut Value::Null, old).await?;
    admission.validate(&Value::Null, old).await
}

/// Asks webhooks about something that is done with an object and not kept: a binding, an eviction, a token, a stream.
pub(crate) async fn act(
    context: &Context,
    (operation, subresource): (Operation, &str),
    (kind, object): (GroupVersionKind, &mut Value),
    dry_run: DryRun,
) -> Result<(), Status> {
    let options = match operation {
        Operation::Connect => Value::Null,
        _ => webhook::options("CreateOptions", None, dry_run),
    };
    let (kind, name) = (Some(kind), context.name());
    let admission = Admission { context, operation, subresource, kind, name, dry_run, options };
    let mut hooks = admission.mutating().await?;
    if hooks.first(object, &Value::Null).await? == Outcome::Changed {
        hooks.second(object, &Value::Null).await?;
    }
    admission.validate(object, &Value::Null).await
}

/// An object of another kind that a check needs.
async fn look_up(
    context: &Context,
    (group, version, plural): (&str, &str, &str),
    namespace: Option<&str>,
    name: &str,
) -> Result<Option<Value>, Status> {
    let Some(resource) = kind::find(group, version, plural) else { return Ok(None) };
    let found = context.core.store.get(&keys::one(resource, namespace, name)).await;
    let entry = found.map_err(|error| error::from_store(error, context.group_resource(), name))?;
    entry
        .map(|entry| encode::decode(&entry.value, entry.mod_revision).map_err(Status::internal_error))
        .transpose()
}
