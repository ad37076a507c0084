//! End-to-end tests: the real binary, stock kubectl, real traffic. All run in a network namespace of their
//! own that has a loopback link and no way out, one after another.

mod demo;
mod network;

use libtest_mimic::{Arguments, Failed, Trial};

/// Every test with its name; the number is the point of the issue it shows.
const TESTS: &[(&str, fn())] = &[("demo::both_kinds_answer_behind_one_service", demo::both_kinds_answer_behind_one_service)];

fn main() -> std::process::ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if !arguments.list && !network::is_own() {
        return network::start_again_in_own();
    }
    let trial = |(name, body): &(&str, fn())| {
        let body = *body;
        Trial::test(*name, move || run(body))
    };
    libtest_mimic::run(&arguments, TESTS.iter().map(trial).collect()).exit_code()
}

fn run(body: fn()) -> Result<(), Failed> {
    std::panic::catch_unwind(body).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned())).unwrap_or_default().into()
    })
}
