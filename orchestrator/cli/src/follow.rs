//! Following what pods write, from their first line on.

use std::collections::HashSet;
use std::time::Duration;

use futures::TryStreamExt;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::cluster::Cluster;

/// Time between two looks for pods and containers that have been started since.
const LOOK: Duration = Duration::from_millis(500);

/// One run of a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Log {
    namespace: String,
    pod: String,
    container: String,
    /// Which of its runs.
    id: String,
}

/// Shows the logs of the pods that a path lists, of those alone that run `image`, until `finished`; then what is left.
pub(crate) async fn follow(cluster: &Cluster, pods: &str, image: &str, finished: impl Future<Output = ()>) {
    let mut finished = std::pin::pin!(finished);
    let (mut seen, mut shown) = (HashSet::new(), JoinSet::new());
    loop {
        let done = tokio::select! {
            biased;
            () = &mut finished => true,
            () = sleep(LOOK) => false,
        };
        if let Ok(list) = cluster.get(pods).await {
            let logs = started(&list, image);
            let several = logs.iter().any(|log| log.pod != logs[0].pod);
            for log in logs {
                if seen.insert(log.clone()) {
                    shown.spawn(show(cluster.clone(), log, several));
                }
            }
        }
        if done {
            while shown.join_next().await.is_some() {}
            return;
        }
    }
}

/// The containers of an image that run or have run.
fn started(pods: &Value, image: &str) -> Vec<Log> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut logs = Vec::new();
    for pod in list(&pods["items"]) {
        let own = list(&pod["spec"]["containers"]);
        let own: Vec<_> = own.iter().filter(|c| c["image"] == image).map(|c| &c["name"]).collect();
        for status in list(&pod["status"]["containerStatuses"]).iter().filter(|s| own.contains(&&s["name"])) {
            let ran = !status["state"]["running"].is_null() || !status["state"]["terminated"].is_null();
            if ran && pod["metadata"]["deletionTimestamp"].is_null() {
                logs.push(Log {
                    namespace: text(&pod["metadata"]["namespace"]),
                    pod: text(&pod["metadata"]["name"]),
                    container: text(&status["name"]),
                    id: text(&status["containerID"]),
                });
            }
        }
    }
    logs
}

/// Prints one log to its end.
async fn show(cluster: Cluster, log: Log, with_name: bool) {
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}/log?container={}&follow=true",
        log.namespace, log.pod, log.container
    );
    let head = if with_name { format!("[{}] ", log.pod) } else { String::new() };
    let print = |line: String| {
        println!("{head}{line}");
        std::future::ready(Ok(()))
    };
    let ended = match cluster.lines(&path).await {
        Ok(lines) => lines.try_for_each(print).await.map_err(|error| error.to_string()),
        Err(error) => Err(crate::cluster::chain(&error)),
    };
    if let Err(error) = ended {
        eprintln!("the log of {} ended: {error}", log.pod);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_runs_the_image_is_followed() {
        let pod = |name: &str, image: &str, state: Value, leaving: Value| {
            json!({
                "metadata": {"name": name, "namespace": "n", "deletionTimestamp": leaving},
                "spec": {"containers": [{"name": "c", "image": image}, {"name": "side", "image": "other"}]},
                "status": {"containerStatuses": [
                    {"name": "c", "state": state, "containerID": "x://1"},
                    {"name": "side", "state": {"running": {}}, "containerID": "x://2"},
                ]},
            })
        };
        let running = || json!({"running": {"startedAt": "2026-01-02T03:04:05Z"}});
        let pods = json!({"items": [
            pod("runs", "new", running(), Value::Null),
            pod("ended", "new", json!({"terminated": {"exitCode": 0}}), Value::Null),
            pod("waits", "new", json!({"waiting": {}}), Value::Null),
            pod("before", "old", running(), Value::Null),
            pod("leaves", "new", running(), json!("2026-01-02T03:04:05Z")),
        ]});
        let found = started(&pods, "new");
        let names: Vec<_> = found.iter().map(|log| (log.pod.as_str(), log.container.as_str())).collect();
        assert_eq!(names, [("runs", "c"), ("ended", "c")]);
        assert!(started(&json!({}), "new").is_empty());
    }
}
