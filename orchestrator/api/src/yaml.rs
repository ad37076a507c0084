//! YAML as Kubernetes reads it: the booleans and octal numbers of YAML 1.1, anchors and merge keys, one document.

use serde_saphyr::options::DuplicateKeyPolicy;

/// Hands a deserializer over the first document to `read`. Duplicate keys reach the reader.
///
/// # Errors
/// What the parser or the reader says.
pub(crate) fn with<'b, R>(
    body: &'b [u8],
    read: impl for<'e> FnOnce(serde_saphyr::Deserializer<'b, 'e>) -> Result<R, serde_saphyr::Error>,
) -> Result<R, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_saphyr::with_deserializer_from_slice_with_options(body, options, read)
}
