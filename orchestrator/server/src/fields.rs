//! Who set which field: `metadata.managedFields`, and server-side apply, which rests on it. The work is the API
//! crate's; this file says who writes what.

use serde_json::Value;

use catamaran_api::kind::{GroupVersionKind, Resource};
use catamaran_api::meta;
use catamaran_api::patch::apply::{self, Force, Target, Writer};
use catamaran_api::status::Status;

use crate::context::Context;
use crate::options::WriteOptions;
use crate::strategy::Part;

/// The subresource under which ownership is noted; status and scale are owned by themselves.
fn subresource(part: Part) -> &'static str {
    match part {
        Part::Status => "status",
        Part::Scale => "scale",
        Part::Approval => "approval",
        Part::EphemeralContainers => "ephemeralcontainers",
        Part::Resize => "resize",
        Part::Main | Part::Finalize | Part::Binding => "",
    }
}

/// The name under which fields are owned: as said, or the first word of the client's name, or of the user's.
fn manager(context: &Context, options: &WriteOptions) -> String {
    if let Some(manager) = &options.field_manager {
        return manager.clone();
    }
    let agent = context.headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok());
    let from_agent = apply::manager_of_user_agent(agent.unwrap_or_default());
    if !from_agent.is_empty() {
        return from_agent;
    }
    context.user.name.rsplit(':').next().filter(|word| !word.is_empty()).unwrap_or("unknown").to_owned()
}

/// What is written: the fields of custom resources are those of their schema, in the version of the request.
fn target<'a>(context: &'a Context, resource: &Resource, part: Part) -> Target<'a> {
    match &context.custom {
        Some(custom) => Target::custom(
            &custom.version().json,
            &context.resource.api_version(),
            custom.definition.served(),
            context.resource.status,
            subresource(part),
        ),
        None => Target::builtin(resource, subresource(part)),
    }
}

/// Notes the fields of a new object.
pub(crate) fn created(context: &Context, object: &mut Value, options: &WriteOptions) {
    if !options.applies {
        note(context, Part::Main, (object, None), options);
    }
}

/// Notes what a write changed.
pub(crate) fn updated(
    context: &Context,
    part: Part,
    (new, old): (&mut Value, &Value),
    options: &WriteOptions,
) {
    if !options.applies {
        note(context, part, (new, Some(old)), options);
    }
}

fn note(context: &Context, part: Part, (new, old): (&mut Value, Option<&Value>), options: &WriteOptions) {
    let target = target(context, context.stored, part);
    let manager = manager(context, options);
    let writer = Writer { manager: &manager, subresource: subresource(part), now: context.now };
    apply::update(&target, old, new, &writer);
}

/// Server-side apply of a configuration; `current` is none when the object is to be created.
pub(crate) fn apply(
    context: &Context,
    current: Option<&Value>,
    config: &Value,
    options: &WriteOptions,
) -> Result<Value, Status> {
    let part =
        if context.request.subresource.as_deref() == Some("status") { Part::Status } else { Part::Main };
    let target = target(context, context.resource, part);
    let manager = manager(context, options);
    let writer = Writer { manager: &manager, subresource: subresource(part), now: context.now };
    let force = if options.force == Some(true) { Force::Yes } else { Force::No };
    let mut config = config.clone();
    if meta::name(&config).is_empty() {
        meta::set(&mut config, "name", context.name());
    }
    apply::apply(&target, current, &config, &writer, force).map_err(|error| error.to_status())
}

/// What is owned through `/scale`, of one kind for all parents.
fn scale(kind: GroupVersionKind) -> Result<Target<'static>, Status> {
    Target::of_kind(kind).ok_or_else(|| Status::internal_error("a Scale has no schema"))
}

/// Notes what a write of a Scale changed in it.
pub(crate) fn scaled(
    context: &Context,
    kind: GroupVersionKind,
    (new, old): (&mut Value, &Value),
    options: &WriteOptions,
) -> Result<(), Status> {
    let manager = manager(context, options);
    let writer = Writer { manager: &manager, subresource: subresource(Part::Scale), now: context.now };
    apply::update(&scale(kind)?, Some(old), new, &writer);
    Ok(())
}

/// Server-side apply of a Scale.
pub(crate) fn apply_scale(
    context: &Context,
    kind: GroupVersionKind,
    (current, config): (&Value, &Value),
    options: &WriteOptions,
) -> Result<Value, Status> {
    let manager = manager(context, options);
    let writer = Writer { manager: &manager, subresource: subresource(Part::Scale), now: context.now };
    let force = if options.force == Some(true) { Force::Yes } else { Force::No };
    apply::apply(&scale(kind)?, Some(current), config, &writer, force).map_err(|error| error.to_status())
}
