//! What the host gives: the only part that knows WASI.

pub(crate) mod incoming;
pub(crate) mod outgoing;
pub(crate) mod poll;
pub(crate) mod streams;

use std::sync::OnceLock;

use wasip2::http::types::{Fields, HeaderError};

use crate::Headers;

/// The variable of that name. The whole environment is one call to the host, made once.
pub(crate) fn environment(name: &str) -> Option<String> {
    static ALL: OnceLock<Vec<(String, String)>> = OnceLock::new();
    let all = ALL.get_or_init(wasip2::cli::environment::get_environment);
    all.iter().find_map(|(found, value)| (found == name).then(|| value.clone()))
}

/// Our list as the host's; the error names the field that it refuses.
fn fields(headers: &Headers, length: Option<usize>) -> Result<Fields, String> {
    let fields = Fields::new();
    for (name, value) in headers.without_hop_by_hop() {
        fields
            .append(name, value)
            .map_err(|error: HeaderError| format!("the header field {name:?} ({error:?})"))?;
    }
    if let Some(length) = length
        && headers.get("content-length").is_none()
    {
        let _ = fields.append("content-length", length.to_string().as_bytes());
    }
    Ok(fields)
}
