//! What an object is: kinds, schemas, decoding, defaults, protobuf, OpenAPI, patches, validation, selectors. Pure: no IO, no clock.

/// The table of resources.
pub mod kind;
/// What is wrong with one field.
pub mod field_error;
/// The Status object and its words.
pub mod status;
/// Resource quantities.
pub mod quantity;
/// Times and durations.
pub mod time;
/// Names and keys.
pub mod name;
/// Label selectors.
pub mod selector;
/// Field selectors.
pub mod field_selector;
/// Metadata of objects and what the server does with it.
pub mod meta;
/// The table of types.
pub mod schema;
/// Tables as kubectl shows them.
pub mod table;
/// Bodies into objects.
pub mod decode;
/// The protobuf encoding of objects.
pub mod protobuf;
/// YAML as Kubernetes reads it.
mod yaml;
/// The four kinds of patches.
pub mod patch;
/// What the server fills in.
pub mod defaults;
/// Published schemas.
pub mod openapi;
/// Validation of whole objects.
pub mod validate;

mod fields;
