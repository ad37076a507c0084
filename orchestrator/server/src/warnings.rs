//! What the caller is told beside the answer, as `Warning` headers (RFC 7234, code 299), failures included.

use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderValue, Response, header};

/// Characters of all warnings of one answer.
const ALL: usize = 4096;
/// Characters of one warning when all are too long together.
const ONE: usize = 256;

/// The warnings of one request; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    /// Adds a text once: a change that is tried again warns again.
    pub(crate) fn add(&self, text: String) {
        let mut warnings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !text.is_empty() && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Moves them into the answer.
    pub(crate) fn tell<B>(&self, response: &mut Response<B>) {
        let mut warnings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for text in cut(warnings.drain(..)) {
            let text = text.replace(char::is_control, " ").replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{text}\"").as_bytes()) {
                response.headers_mut().append(header::WARNING, value);
            }
        }
    }
}

/// Too many words in all: each loses its end, and the last ones go.
fn cut(warnings: impl Iterator<Item = String>) -> Vec<String> {
    let warnings: Vec<String> = warnings.collect();
    let length = |text: &String| text.chars().count();
    if warnings.iter().map(length).sum::<usize>() <= ALL {
        return warnings;
    }
    let mut left = ALL;
    let short = warnings.iter().map(|text| text.chars().take(ONE).collect::<String>());
    short
        .take_while(|text| {
            let fits = length(text) <= left;
            left = left.saturating_sub(length(text));
            fits
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_become_headers() {
        let warnings = Warnings::default();
        for text in ["unknown field \"a\\b\"", "two\nlines", "unknown field \"a\\b\"", "", "ü"] {
            warnings.add(text.to_owned());
        }
        let mut response = Response::new(());
        warnings.clone().tell(&mut response);
        let told: Vec<&[u8]> =
            response.headers().get_all(header::WARNING).iter().map(HeaderValue::as_bytes).collect();
        let expected =
            [r#"299 - "unknown field \"a\\b\"""#, r#"299 - "two lines""#, "299 - \"ü\""].map(str::as_bytes);
        assert_eq!(told, expected);
    }

    #[test]
    fn long_warnings_lose_their_ends() {
        let many = (0..40).map(|at| format!("{at}{}", "x".repeat(300)));
        let left = cut(many);
        assert_eq!(left.len(), 16);
        assert!(left.iter().all(|text| text.len() == ONE));
        assert_eq!(cut(["a".repeat(ALL)].into_iter())[0].len(), ALL);
    }
}
