//! postStart and preStop: a command, a request, or a pause.

use std::time::Duration;

use k8s_openapi::api::core::v1::{LifecycleHandler, Pod};

use crate::context::Context;
use crate::exec::{self, ExecError, Target};
use crate::members::member;
use crate::record::parse_container_id;
use crate::request::{self, RequestError};

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    #[error("Exec lifecycle hook ({command}) failed - error: {why}")]
    Exec { command: String, why: String },
    #[error("HTTP lifecycle hook ({path}) failed - error: {why}")]
    Http { path: String, why: String },
}

/// A postStart hook may take as long as it likes: its container is not started before, and may be deleted meanwhile.
pub(crate) const ANY_TIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// Runs a hook to its end, for at most `limit`.
pub(crate) async fn run(
    context: &Context,
    pod: &Pod,
    target: &Target,
    hook: &LifecycleHandler,
    limit: Duration,
) -> Result<(), HookError> {
    if let Some(action) = &hook.exec {
        let command = action.command.clone().unwrap_or_default();
        let failed = |why: String| HookError::Exec { command: command.join(" "), why };
        return match exec::run(context, target, &command, limit).await {
            Ok(output) if output.code == 0 => Ok(()),
            Ok(output) => {
                Err(failed(format!("exit code {}, message: {:?}", output.code, output.text.trim_end())))
            }
            Err(error) => Err(failed(chain::<ExecError>(&error))),
        };
    }
    if let Some(action) = &hook.http_get {
        let path = action.path.clone().unwrap_or_default();
        let name = parse_container_id(&target.id.0).map_or("", |(_, name, _)| name);
        let failed = |why: String| HookError::Http { path: path.clone(), why };
        let Some(member) = member(pod, name) else { return Ok(()) };
        return match request::http_get(action, member.container, target.ip.into(), limit).await {
            Ok(answer) if answer.status.is_success() || answer.status.is_redirection() => Ok(()),
            Ok(answer) => Err(failed(format!("HTTP status {}", answer.status.as_u16()))),
            Err(error) => Err(failed(chain::<RequestError>(&error))),
        };
    }
    if let Some(pause) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(pause.seconds).unwrap_or(0)).min(limit)).await;
    }
    Ok(())
}

fn chain<E: std::error::Error + 'static>(error: &E) -> String {
    catamaran_client::error::Chain(error).to_string()
}
