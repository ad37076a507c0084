//! PATCH in its four forms. The server reads, patches and writes; when somebody else was faster it begins again.

use bytes::Bytes;
use http::{Response, header};
use serde_json::Value;

use catamaran_api::decode::{self, ContentType};
use catamaran_api::field_error::{FieldError, Path};
use catamaran_api::kind::GroupVersionKind;
use catamaran_api::patch;
use catamaran_api::status::Status;

use crate::body::Body;
use crate::context::Context;
use crate::custom;
use crate::fields;
use crate::negotiate::MediaRange;
use crate::options::WriteOptions;
use crate::registry::{self, Missing};
use crate::strategy::Part;

const TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

const CUSTOM_TYPES: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];

/// A patch body with what it means.
pub(crate) enum Patch {
    Json(Bytes),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
}

impl Patch {
    /// Reads the body as its content type says.
    pub(crate) fn parse(
        context: &Context,
        body: &Bytes,
        kind: GroupVersionKind,
        options: &WriteOptions,
    ) -> Result<Self, Status> {
        let _span = tracing::info_span!("decode").entered();
        let said = context.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media = MediaRange::parse(said.unwrap_or_default()).name;
        let untyped = |content_type| {
            decode::untyped(body, content_type, registry::strictness(options))
                .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))
        };
        let patch = match media {
            "application/json-patch+json" => Patch::Json(body.clone()),
            "application/merge-patch+json" => Patch::Merge(warned(context, untyped(ContentType::Json)?)),
            // Lists of custom resources have no merge keys.
            "application/strategic-merge-patch+json" if context.resource.custom => {
                return Err(Status::unsupported_media_type(&CUSTOM_TYPES));
            }
            "application/strategic-merge-patch+json" => {
                Patch::Strategic(warned(context, untyped(ContentType::Json)?))
            }
            "application/apply-patch+yaml" => {
                let wanted = (kind, registry::strictness(options));
                let decoded = custom::decode(context, body, ContentType::Yaml, wanted)
                    .map_err(|error| Status::bad_request(error.to_string()))?;
                Patch::Apply(warned(context, decoded))
            }
            _ if context.resource.custom => return Err(Status::unsupported_media_type(&CUSTOM_TYPES)),
            _ => return Err(Status::unsupported_media_type(&TYPES)),
        };
        match (&patch, options.force) {
            (Patch::Apply(_), _) if options.field_manager.is_none() => {
                let path = Path::root("fieldManager");
                let error = FieldError::required(&path, "is required for apply patch");
                Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &[error]))
            }
            (Patch::Json(_) | Patch::Merge(_) | Patch::Strategic(_), Some(_)) => {
                let error =
                    FieldError::forbidden(&Path::root("force"), "may not be specified for non-apply patch");
                Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &[error]))
            }
            _ => Ok(patch),
        }
    }

    /// The patched object. `current` is the object in the form that the patch is about.
    pub(crate) fn apply(
        &self,
        context: &Context,
        current: &Value,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        let patched = match self {
            Patch::Json(operations) => patch::json::apply(current, operations),
            Patch::Merge(wanted) => patch::merge::apply(current, wanted),
            Patch::Strategic(wanted) => patch::strategic::apply(context.resource, current, wanted),
            Patch::Apply(wanted) => return fields::apply(context, Some(current), wanted, options),
        };
        patched.map_err(|error| error.to_status())
    }
}

fn warned(context: &Context, decoded: decode::Decoded) -> Value {
    decoded.warnings.into_iter().for_each(|warning| context.warn(warning));
    decoded.object
}

pub(crate) async fn patch(context: &Context, part: Part, body: &Bytes) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(&context.query, "PatchOptions")?;
    context.accepted()?;
    let patch = Patch::parse(context, body, context.resource.gvk(), &options)?;
    let applies = matches!(patch, Patch::Apply(_));
    let missing = if applies && part == Part::Main { Missing::Create } else { Missing::Refuse };
    let change = |current: Option<&Value>| {
        let patched = match (current, &patch) {
            (Some(current), patch) => patch.apply(context, current, &options)?,
            (None, Patch::Apply(wanted)) => fields::apply(context, None, wanted, &options)?,
            (None, _) => return Err(Status::not_found(context.group_resource(), context.name())),
        };
        registry::normalize(context, patched, context.resource.gvk(), &options)
    };
    let mut options = options.clone();
    options.applies = applies;
    let written = registry::update(context, (part, missing), &options, change).await?;
    written.respond(context, 200)
}
