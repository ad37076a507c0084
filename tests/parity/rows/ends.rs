//! How containers end: codes, reasons, restarts, deadlines, last words, order.

use serde_json::{Value, json};

use crate::row::{Check, Row, always, once, row, run, with};
use crate::run::{Look, same};

const AREA: &str = "ends and restarts";

fn ended(look: &Look<'_>, code: i64, reason: &str) -> Result<(), String> {
    let end = &look.container()["state"]["terminated"];
    same((&end["exitCode"], &end["reason"]), (&json!(code), &json!(reason)))
}

fn message(look: &Look<'_>, text: &str) -> Result<(), String> {
    let end = &look.container()["state"]["terminated"];
    same(end["message"].as_str().unwrap_or_default().trim_end(), text)
}

pub(crate) fn rows() -> Vec<Row> {
    [codes(), restarts(), last_words(), order()].into_iter().flatten().collect()
}

fn codes() -> Vec<Row> {
    let hungry = with(run(&["alloc", "256", "0"]), json!({"resources": {"limits": {"memory": "24Mi"}}}));
    let late = with(once(run(&["sleep", "600000"])), json!({"spec": {"activeDeadlineSeconds": 1}}));
    vec![
        row(
            AREA,
            "exit code 0",
            once(run(&["exit", "0"])),
            Check::Shows(|look| {
                same(look.phase(), "Succeeded")?;
                ended(look, 0, "Completed")
            }),
        ),
        row(
            AREA,
            "another exit code",
            once(run(&["exit", "7"])),
            Check::Shows(|look| {
                same(look.phase(), "Failed")?;
                ended(look, 7, "Error")
            }),
        ),
        row(AREA, "out of memory", once(hungry), Check::Shows(|look| ended(look, 137, "OOMKilled"))),
        row(
            AREA,
            "`activeDeadlineSeconds`",
            late,
            Check::Shows(|look| {
                same((look.phase(), &look.pod["status"]["reason"]), ("Failed", &json!("DeadlineExceeded")))
            }),
        ),
    ]
}

fn restarts() -> Vec<Row> {
    let backs_off: fn(&Look<'_>) -> Result<(), String> = |look| {
        let container = look.container();
        same(&container["state"]["waiting"]["reason"], &json!("CrashLoopBackOff"))?;
        same(container["restartCount"].as_i64() >= Some(1), true)?;
        look.told("Back-off restarting failed container c in pod")
    };
    let on_failure =
        |code: &str| with(once(run(&["exit", code])), json!({"spec": {"restartPolicy": "OnFailure"}}));
    vec![
        row(
            AREA,
            "`restartPolicy: Never`",
            once(run(&["exit", "1"])),
            Check::Shows(|look| {
                same((look.phase(), &look.container()["restartCount"]), ("Failed", &json!(0)))
            }),
        ),
        row(AREA, "`restartPolicy: OnFailure` after a failure", on_failure("1"), Check::Shows(backs_off)),
        row(AREA, "`restartPolicy: OnFailure` after success", on_failure("0"), Check::Phase("Succeeded")),
        row(
            AREA,
            "`restartPolicy: Always`",
            always(run(&["exit", "0"])),
            Check::Shows(|look| same(look.container()["restartCount"].as_i64() >= Some(1), true)),
        ),
        row(
            AREA,
            "the end before the last is kept",
            always(run(&["exit", "3"])),
            Check::Shows(|look| same(&look.container()["lastState"]["terminated"]["exitCode"], &json!(3))),
        ),
    ]
}

fn last_words() -> Vec<Row> {
    let to = |path: &str, more: Value| once(with(run(&["write", path, "last words"]), more));
    let other = json!({"terminationMessagePath": "/tmp/words"});
    let fallback =
        |words: &[&str]| once(with(run(words), json!({"terminationMessagePolicy": "FallbackToLogsOnError"})));
    vec![
        row(
            AREA,
            "a termination message",
            to("/dev/termination-log", json!({})),
            Check::Shows(|look| message(look, "last words")),
        ),
        row(
            AREA,
            "`terminationMessagePath`",
            to("/tmp/words", other),
            Check::Shows(|look| message(look, "last words")),
        ),
        row(
            AREA,
            "`FallbackToLogsOnError` after an error",
            fallback(&["no such word"]),
            Check::Shows(|look| message(look, "unknown: no such word")),
        ),
        row(
            AREA,
            "`FallbackToLogsOnError` after success",
            fallback(&["args", "fine"]),
            Check::Shows(|look| {
                ended(look, 0, "Completed")?;
                message(look, "")
            }),
        ),
        row(
            AREA,
            "no message from the log without that",
            once(run(&["no such word"])),
            // Which number it ends with is another row: components of WASI 0.2 know success and failure here.
            Check::Shows(|look| {
                same(&look.container()["state"]["terminated"]["reason"], &json!("Error"))?;
                message(look, "")
            }),
        ),
    ]
}

fn order() -> Vec<Row> {
    let named = |name: &str, words: &[&str]| with(run(words), json!({"name": name}));
    let after =
        |first: Value| with(once(run(&["args", "main"])), json!({"spec": {"initContainers": [first]}}));
    let sidecar = with(named("beside", &["sleep", "600000"]), json!({"restartPolicy": "Always"}));
    let image = with(
        once(run(&["args"])),
        json!({"spec": {"containers": [{"name": "c", "image": "localhost:5000/none:1"}]}}),
    );
    let never = json!({"name": "c", "image": "localhost:5000/none:1", "imagePullPolicy": "Never"});
    vec![
        row(
            AREA,
            "an init container comes first",
            after(named("first", &["exit", "0"])),
            Check::Shows(|look| {
                let first = &look.pod["status"]["initContainerStatuses"][0]["state"]["terminated"];
                same((look.phase(), &first["reason"]), ("Succeeded", &json!("Completed")))
            }),
        ),
        row(
            AREA,
            "an init container that fails",
            after(named("first", &["exit", "2"])),
            Check::Shows(|look| {
                same(look.phase(), "Failed")?;
                same(&look.container()["state"]["waiting"]["reason"], &json!("PodInitializing"))
            }),
        ),
        row(AREA, "a sidecar does not keep its pod from ending", after(sidecar), Check::Phase("Succeeded")),
        row(
            AREA,
            "an image that is not there",
            image,
            Check::Shows(|look| {
                let reason = look.container()["state"]["waiting"]["reason"].as_str().unwrap_or_default();
                if matches!(reason, "ErrImagePull" | "ImagePullBackOff") {
                    Ok(())
                } else {
                    Err(reason.to_owned())
                }
            }),
        ),
        row(
            AREA,
            "`imagePullPolicy: Never`",
            once(never),
            Check::Shows(|look| {
                same(&look.container()["state"]["waiting"]["reason"], &json!("ErrImageNeverPull"))
            }),
        ),
    ]
}
