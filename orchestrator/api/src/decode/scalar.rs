//! Text as values: times, quantities and bytes in their canonical form.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::quantity::Quantity;
use crate::schema::Type;
use crate::time;

/// The value of a text for a type: `None` where the type takes no text, an error where the text is malformed.
pub(super) fn text(ty: Type, text: &str) -> Option<Result<Value, String>> {
    Some(match ty {
        Type::String | Type::IntOrString | Type::Json | Type::Raw | Type::Duration => Ok(text.into()),
        Type::Time => moment(text, is_canonical_time, time::format),
        Type::MicroTime => moment(text, |_| false, time::format_micro),
        Type::Quantity => Quantity::parse(text.trim())
            .map(|quantity| quantity.to_string().into())
            .map_err(|e| format!("\"{text}\" is no quantity: {e}")),
        Type::Bytes => bytes(text),
        _ => return None,
    })
}

fn moment(
    text: &str,
    canonical: impl Fn(&str) -> bool,
    format: impl Fn(jiff::Timestamp) -> String,
) -> Result<Value, String> {
    if canonical(text) {
        return Ok(text.into());
    }
    let moment =
        time::parse(text).ok_or_else(|| format!("\"{text}\" is no time such as \"2006-01-02T15:04:05Z\""))?;
    Ok(format(moment).into())
}

/// `2006-01-02T15:04:05Z` and a date that every month has: the common case needs no calendar.
fn is_canonical_time(text: &str) -> bool {
    let b = text.as_bytes();
    let pattern = b"dddd-dd-ddTdd:dd:ddZ";
    b.len() == pattern.len()
        && b.iter().zip(pattern).all(|(c, p)| if *p == b'd' { c.is_ascii_digit() } else { c == p })
        && ("01".."13").contains(&&text[5..7])
        && ("01".."29").contains(&&text[8..10])
        && &text[11..13] < "24"
        && &text[14..16] < "60"
        && &text[17..19] < "60"
}

fn bytes(text: &str) -> Result<Value, String> {
    // Line breaks are allowed in the text and not kept.
    let joined: String;
    let compact = if text.contains(['\n', '\r']) {
        joined = text.replace(['\n', '\r'], "");
        joined.as_str()
    } else {
        text
    };
    match STANDARD.decode(compact) {
        Ok(_) => Ok(compact.into()),
        Err(error) => Err(format!("illegal base64 data: {error}")),
    }
}
