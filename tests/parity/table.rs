//! `PARITY.md`: what came out, with its totals. It is kept in the repository and must be what the tests say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::row::{BOTH, Kind, Row};

/// By the number of a row: the kinds for which it held.
pub(crate) type Results = BTreeMap<usize, BTreeSet<Kind>>;

/// Set: the file is written. Else it is compared.
const WRITE: &str = "CATAMARAN_WRITE_PARITY";

/// Writes the table, or says that it is another one than that in the repository.
pub(crate) fn keep(rows: &[Arc<Row>], results: &Results) -> ExitCode {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../PARITY.md");
    let text = text(rows, results);
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, text).expect("PARITY.md can be written");
        return ExitCode::SUCCESS;
    }
    if std::fs::read_to_string(&path).is_ok_and(|kept| kept == text) {
        return ExitCode::SUCCESS;
    }
    eprintln!("PARITY.md is not what the tests say: run them with {WRITE}=1 and keep what comes out");
    ExitCode::FAILURE
}

fn text(rows: &[Arc<Row>], results: &Results) -> String {
    let held = |number: usize, kind: Kind| results.get(&number).is_some_and(|kinds| kinds.contains(&kind));
    let same = rows
        .iter()
        .enumerate()
        .filter(|(number, row)| row.forbidden.is_none() && BOTH.iter().all(|kind| held(*number, *kind)));
    let forbidden = rows.iter().filter(|row| row.forbidden.is_some()).count();
    let mut text = String::from(
        "# Parity\n\nEach row is one behaviour of a pod, run with a container image and with a wasm image of the same \
         program; only the\nimage differs. Made by `tests/parity`.\n\n",
    );
    // Writing to a string cannot fail.
    let _ = writeln!(text, "- {} rows in which the same assertion holds for both", same.count());
    let _ = writeln!(text, "- {forbidden} in which wasm, by its nature, cannot do it, and says so\n");
    text.push_str("| | behaviour | container | wasm |\n| --- | --- | --- | --- |\n");
    let mut area = "";
    for (number, row) in rows.iter().enumerate() {
        let shown = if row.area == area { "" } else { row.area };
        area = row.area;
        let cell = |kind: Kind| match (held(number, kind), row.forbidden.filter(|_| kind == Kind::Wasm)) {
            (false, _) => "no".to_owned(),
            (true, None) => "yes".to_owned(),
            (true, Some(error)) => format!("refused: {error}"),
        };
        let _ =
            writeln!(text, "| {shown} | {} | {} | {} |", row.name, cell(Kind::Container), cell(Kind::Wasm));
    }
    text
}
