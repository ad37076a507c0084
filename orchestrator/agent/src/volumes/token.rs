//! Tokens of service accounts, bound to the pod: kept while they have most of their time before them.

use std::path::Path;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccountTokenProjection};

use super::atomic;
use crate::context::Context;
use crate::members::{name, namespace, spec, uid};

const DEFAULT_SECONDS: i64 = 3600;
/// A token is replaced at this age however long it lives.
const OLDEST: Duration = Duration::from_secs(24 * 3600);

/// The token in the volume, or a new one when that has lived four fifths of its time.
pub(super) async fn current(
    context: &Context,
    pod: &Pod,
    source: &ServiceAccountTokenProjection,
    place: &Path,
) -> Result<Vec<u8>, kube::Error> {
    let seconds = source.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
    if let Some((token, written)) = atomic::read(place, &source.path)
        && !is_due(written, seconds, SystemTime::now())
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

fn is_due(written: SystemTime, seconds: i64, now: SystemTime) -> bool {
    let lives = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let age = now.duration_since(written).unwrap_or_default();
    age >= (lives * 4 / 5).min(OLDEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_replaced_in_time() {
        let written = SystemTime::UNIX_EPOCH;
        let after = |seconds| written + Duration::from_secs(seconds);
        assert!(!is_due(written, 3607, after(2880)));
        assert!(is_due(written, 3607, after(2886)));
        assert!(is_due(written, 10_000_000, after(24 * 3600)));
    }
}
