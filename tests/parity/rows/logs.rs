//! What containers say and `kubectl logs` shows.

use serde_json::json;

use crate::row::{Check, Row, always, once, row, run};
use crate::run::{Look, same};

const AREA: &str = "logs";
/// More than one log file holds.
const MANY: usize = 150_000;

fn when_ended(look: &Look<'_>) -> Result<(), String> {
    if matches!(look.phase(), "Succeeded" | "Failed") { Ok(()) } else { Err("it has not ended".into()) }
}

pub(crate) fn rows() -> Vec<Row> {
    [said(), since(), followed()].into_iter().flatten().collect()
}

fn said() -> Vec<Row> {
    let five = || once(run(&["flood", "5", "1"]));
    vec![
        row(AREA, "stdout and stderr", once(run(&["both", "out", "err"])), Check::Lines(&["out", "err"])),
        row(AREA, "a last line without an end", once(run(&["say", "said", ""])), Check::Log("said")),
        row(
            AREA,
            "`--tail`",
            five(),
            Check::Shows(|look| {
                when_ended(look)?;
                same(look.log(&["--tail=2"]).as_str(), "3 x\n4 x\n")
            }),
        ),
        row(
            AREA,
            "`--limit-bytes`",
            five(),
            Check::Shows(|look| {
                when_ended(look)?;
                same(look.log(&["--limit-bytes=5"]).as_str(), "0 x\n1")
            }),
        ),
        row(
            AREA,
            "`--timestamps`",
            once(run(&["args", "said"])),
            Check::Shows(|look| {
                when_ended(look)?;
                let log = look.log(&["--timestamps"]);
                let (time, text) = log.trim_end().split_once(' ').unwrap_or_default();
                same((time.ends_with('Z'), text), (true, "said"))
            }),
        ),
    ]
}

fn since() -> Vec<Row> {
    vec![
        row(
            AREA,
            "`--since`",
            once(run(&["args", "said"])),
            Check::Shows(|look| {
                when_ended(look)?;
                same(look.log(&["--since=1h"]).as_str(), "said\n")
            }),
        ),
        row(
            AREA,
            "`--since-time`",
            once(run(&["args", "said"])),
            Check::Shows(|look| {
                when_ended(look)?;
                same(look.log(&["--since-time=2100-01-01T00:00:00Z"]).as_str(), "")
            }),
        ),
        row(
            AREA,
            "`--previous`",
            always(run(&["args", "said"])),
            Check::Shows(|look| {
                same(look.container()["restartCount"].as_i64() >= Some(1), true)?;
                same(look.log(&["--previous"]).as_str(), "said\n")
            }),
        ),
    ]
}

fn followed() -> Vec<Row> {
    let many = MANY.to_string();
    vec![
        row(
            AREA,
            "`-f` until the end",
            once(run(&["flood", "20000", "50"])),
            Check::Shows(|look| {
                if look.container()["state"]["waiting"].is_object() {
                    return Err("it has not begun".into());
                }
                same(look.log(&["-f"]).lines().count(), 20_000)
            }),
        ),
        row(
            AREA,
            "all of a log that went on in a second file",
            once(run(&["flood", &many, "100"])),
            Check::Shows(|look| {
                when_ended(look)?;
                same(look.log(&[]).lines().count(), MANY)
            }),
        ),
        row(
            AREA,
            "`--tail` over two files of a log",
            once(run(&["flood", &many, "100"])),
            Check::Shows(|look| {
                when_ended(look)?;
                let log = look.log(&["--tail=140000"]);
                let first = log.lines().next().and_then(|line| line.split(' ').next()).unwrap_or_default();
                same((log.lines().count(), first), (140_000, "10000"))
            }),
        ),
        row(
            AREA,
            "an id, an image and its digest are told",
            once(run(&["args"])),
            Check::Shows(|look| {
                let container = look.container();
                let told = |key: &str| container[key].as_str().is_some_and(|text| !text.is_empty());
                same(
                    (told("containerID"), told("imageID"), container["image"].is_string()),
                    (true, true, true),
                )?;
                same(&container["name"], &json!("c"))
            }),
        ),
    ]
}
