//! `/containerLogs/NAMESPACE/POD/CONTAINER`: what a container said.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Refusal, find_container, find_pod};
use crate::config::log_file;
use crate::context::Context;
use crate::logs::{self, Query as LogQuery};
use crate::members::uid;
use crate::record::PodRecord;

/// Pieces that wait for a slow reader.
const WAITING: usize = 16;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Asked {
    follow: Option<String>,
    previous: Option<String>,
    timestamps: Option<String>,
    tail_lines: Option<u64>,
    limit_bytes: Option<u64>,
    since_seconds: Option<i64>,
    since_time: Option<String>,
}

/// A flag in a query: present and not denied.
fn yes(flag: Option<&String>) -> bool {
    flag.is_some_and(|value| !matches!(value.as_str(), "false" | "0"))
}

impl Asked {
    fn query(&self, now: Timestamp) -> Result<LogQuery, Refusal> {
        let wrong = |_| Refusal(StatusCode::BAD_REQUEST, "sinceTime is not a time of RFC 3339".into());
        let since_time = self.since_time.as_deref().map(str::parse).transpose().map_err(wrong)?;
        Ok(LogQuery {
            follow: yes(self.follow.as_ref()),
            tail: self.tail_lines,
            since: self.since_seconds.map(|seconds| now - SignedDuration::from_secs(seconds)).or(since_time),
            timestamps: yes(self.timestamps.as_ref()),
            limit_bytes: self.limit_bytes,
            only: None,
            from: None,
        })
    }
}

pub(super) async fn serve(
    State(context): State<Arc<Context>>,
    Path((namespace, pod_name, container)): Path<(String, String, String)>,
    Query(asked): Query<Asked>,
) -> Result<Response, Refusal> {
    let (pod, record) = find_pod(&context, &namespace, &pod_name)?;
    let found = find_container(&pod, &record, &container)?;
    let attempt = match (yes(asked.previous.as_ref()), &found.last) {
        (true, Some(last)) => last.attempt,
        (true, None) => {
            let text = format!("previous terminated container {container:?} in pod {pod_name:?} not found");
            return Err(Refusal(StatusCode::BAD_REQUEST, text));
        }
        // An attempt that is only being made has said nothing: the one before it speaks.
        (false, Some(last)) if !found.created => last.attempt,
        (false, _) => found.attempt,
    };
    let directory = context.paths.log_dir(&namespace, &pod_name, uid(&pod));
    let file = log_file(&directory, &container, attempt);
    let query = asked.query(Timestamp::now())?;
    let record_file = context.paths.pod(uid(&pod)).record();
    let running = move || {
        let still = PodRecord::load(&record_file)
            .containers
            .get(&container)
            .is_some_and(|record| record.attempt == attempt && record.finished.is_none());
        std::future::ready(still)
    };
    let (to, from) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let errors = to.clone();
        if let Err(error) = logs::stream(file, query, running, to).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            // Nobody may listen any more.
            let _ = errors.send(Err(error)).await;
        }
    });
    let body = Body::from_stream(ReceiverStream::new(from));
    Ok(([(header::CONTENT_TYPE, "text/plain")], body).into_response())
}
