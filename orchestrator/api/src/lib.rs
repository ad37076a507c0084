//! What an object is: kinds, schemas, decoding, defaults, protobuf, OpenAPI, patches, validation, selectors. Pure: no IO, no clock.

/// Bodies into objects.
pub mod decode;
/// What the server fills in.
pub mod defaults;
/// What is wrong with one field.
pub mod field_error;
/// Field selectors.
pub mod field_selector;
/// The table of resources.
pub mod kind;
/// Volumes that are directories of a node.
pub mod local_path;
/// Metadata of objects and what the server does with it.
pub mod meta;
/// Names and keys.
pub mod name;
/// Published schemas.
pub mod openapi;
/// The four kinds of patches.
pub mod patch;
/// The protobuf encoding of objects.
pub mod protobuf;
/// Resource quantities.
pub mod quantity;
/// What ResourceQuotas count and charge.
pub mod quota;
/// What a pod asks for as a whole.
pub mod resources;
/// The table of types.
pub mod schema;
/// Label selectors.
pub mod selector;
/// The Status object and its words.
pub mod status;
/// Tables as kubectl shows them.
pub mod table;
/// Times and durations.
pub mod time;
/// Validation of whole objects.
pub mod validate;
/// What is allowed and yet not wise.
pub mod warn;
/// YAML as Kubernetes reads and writes it.
pub mod yaml;

mod depth;
mod fields;
