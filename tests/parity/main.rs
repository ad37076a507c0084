//! The parity table: each row is one behaviour of a pod, run with a container image and with a wasm image of the same
//! program; the same assertion must hold for both. The rows are in `rows/`, the table that comes out is `PARITY.md`.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../e2e/network.rs"]
mod network;
mod program;
mod row;
mod rows;
mod run;
mod table;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};

use row::{BOTH, Kind, Row};
use table::Results;

/// Rows that run at a time: each has pods of its own.
const AT_A_TIME: usize = 3;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_A_TIME);
    let rows: Vec<Arc<Row>> = rows::all().into_iter().map(Arc::new).collect();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(&rows, None, &Arc::default())).exit_code();
    }
    if !network::is_own() {
        return network::start_again_in_own();
    }
    let stage = Arc::new(run::Stage::new());
    let results: Arc<Mutex<Results>> = Arc::default();
    let conclusion = libtest_mimic::run(&arguments, trials(&rows, Some(&stage), &results));
    drop(stage);
    let results = std::mem::take(&mut *results.lock().unwrap_or_else(PoisonError::into_inner));
    if conclusion.num_filtered_out == 0 && !conclusion.has_failed() {
        return table::keep(&rows, &results);
    }
    conclusion.exit_code()
}

fn trials(rows: &[Arc<Row>], stage: Option<&Arc<run::Stage>>, results: &Arc<Mutex<Results>>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        for kind in BOTH {
            let (row, stage, results) = (Arc::clone(row), stage.cloned(), Arc::clone(results));
            let name = format!("{}: {} ({})", row.area, row.name, kind.word());
            trials.push(Trial::test(name, move || {
                let stage = stage.ok_or("a list runs nothing")?;
                one(&stage, &row, number, kind)?;
                let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                results.entry(number).or_default().insert(kind);
                Ok(())
            }));
        }
    }
    trials
}

fn one(stage: &run::Stage, row: &Row, number: usize, kind: Kind) -> Result<(), Failed> {
    let body = std::panic::AssertUnwindSafe(|| stage.run(row, number, kind));
    std::panic::catch_unwind(body).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default()
            .into()
    })
}
