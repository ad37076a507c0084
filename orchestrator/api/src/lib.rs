//! What an object is: kinds, schemas, decoding, defaults, protobuf, OpenAPI, patches, validation, selectors. Pure: no IO, no clock.

/// The table of resources.
pub mod kind;
