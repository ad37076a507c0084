//! Who set which field: `metadata.managedFields`, kept by the API crate's apply.

use serde_json::Value;

use catamaran_api::meta;
use catamaran_api::status::Status;

use crate::context::Context;
use crate::options::WriteOptions;
use crate::strategy::Part;

/// A new object: what the client says about fields is not believed.
pub(crate) fn created(_context: &Context, object: &mut Value, _options: &WriteOptions) {
    meta::set(object, "managedFields", Value::Null);
}

/// A changed object keeps its book.
pub(crate) fn updated(
    _context: &Context,
    _part: Part,
    (new, old): (&mut Value, &Value),
    _options: &WriteOptions,
) {
    meta::set(new, "managedFields", old["metadata"]["managedFields"].clone());
}

/// Server-side apply on an object that is there.
pub(crate) fn apply(
    _context: &Context,
    current: &Value,
    wanted: &Value,
    _options: &WriteOptions,
) -> Result<Value, Status> {
    catamaran_api::patch::merge::apply(current, wanted).map_err(|error| error.to_status())
}

/// Server-side apply of an object that is not there.
pub(crate) fn apply_new(
    _context: &Context,
    wanted: &Value,
    _options: &WriteOptions,
) -> Result<Value, Status> {
    Ok(wanted.clone())
}
