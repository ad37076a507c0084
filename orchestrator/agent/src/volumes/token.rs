//! Tokens of service accounts, bound to the pod: kept while they have most of their time before them.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccountTokenProjection};
use serde::Deserialize;

use super::atomic;
use crate::context::Context;
use crate::members::{name, namespace, spec, uid};

const DEFAULT_SECONDS: i64 = 3600;
/// A token is replaced at this age (seconds) however long it lives.
const OLDEST: i64 = 24 * 3600;

/// The times in a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
struct Times {
    iat: i64,
    exp: i64,
}

/// The token in the volume, or a new one when that has lived four fifths of its time.
pub(super) async fn current(
    context: &Context,
    pod: &Pod,
    source: &ServiceAccountTokenProjection,
    place: &Path,
) -> Result<Vec<u8>, kube::Error> {
    let seconds = source.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
    if let Some(token) = atomic::read(place, &source.path)
        && times(&token).is_some_and(|times| !is_due(times, Timestamp::now().as_second()))
    {
        return Ok(token);
    }
    let account = spec(pod).service_account_name.as_deref().unwrap_or("default");
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: source.audience.clone().into_iter().collect(),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(name(pod).to_owned()),
                uid: Some(uid(pod).to_owned()),
            }),
            expiration_seconds: Some(seconds),
        },
        ..TokenRequest::default()
    };
    let answer = context.objects.token(namespace(pod), account, &request).await?;
    Ok(answer.status.map(|status| status.token).unwrap_or_default().into_bytes())
}

/// What the token says of itself: its file may be younger, and the server may have given it less time than was asked.
fn times(token: &[u8]) -> Option<Times> {
    let claims = token.split(|byte| *byte == b'.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

/// Whether the token lived four fifths of its time (all in seconds).
fn is_due(times: Times, now: i64) -> bool {
    let lives = times.exp.saturating_sub(times.iat).max(0);
    now.saturating_sub(times.iat) >= (lives / 5 * 4).min(OLDEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_replaced_in_time() {
        let lives = |seconds| Times { iat: 1000, exp: 1000 + seconds };
        let table: [(i64, i64, bool); 7] = [
            (3607, 2880, false),
            (3607, 2884, true),
            (600, 479, false),
            (600, 480, true),
            (10_000_000, 24 * 3600 - 1, false),
            (10_000_000, 24 * 3600, true),
            (-5, 0, true),
        ];
        for (seconds, age, due) in table {
            assert_eq!(is_due(lives(seconds), 1000 + age), due, "{seconds} {age}");
        }
    }

    #[test]
    fn a_token_says_its_times() {
        let claims = URL_SAFE_NO_PAD.encode(br#"{"iss": "x", "iat": 7, "exp": 9}"#);
        assert_eq!(times(format!("head.{claims}.signature").as_bytes()), Some(Times { iat: 7, exp: 9 }));
        for wrong in ["", "a.b", "a.!.c", "only"] {
            assert_eq!(times(wrong.as_bytes()), None, "{wrong:?}");
        }
    }
}
