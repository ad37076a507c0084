//! End-to-end tests: the real binary, stock kubectl, real traffic. All run in a network namespace of their
//! own that has a loopback link and no way out, one after another.
#![allow(clippy::unwrap_used, reason = "a test")]

mod bad_input;
mod demo;
mod down;
mod follow_a_pod;
mod kubectl;
mod layouts;
mod network;
mod pods;
mod restart;
mod samples;
mod services;
mod streams;
mod volumes;
mod workloads;

use libtest_mimic::{Arguments, Failed, Trial};

/// Every test with its name; the number is the point of the issue it shows.
const TESTS: &[(&str, fn())] = &[
    ("demo::both_kinds_answer_behind_one_service", demo::both_kinds_answer_behind_one_service),
    (
        "follow_a_pod::in_the_order_that_the_architecture_tells",
        follow_a_pod::in_the_order_that_the_architecture_tells,
    ),
    ("kubectl::every_command", kubectl::every_command),
    ("pods::configuration_reaches_both_kinds", pods::configuration_reaches_both_kinds),
    ("pods::ends_are_told", pods::ends_are_told),
    ("pods::probes_restarts_and_termination", pods::probes_restarts_and_termination),
    ("pods::unschedulable_pods_say_why_and_try_again", pods::unschedulable_pods_say_why_and_try_again),
    ("volumes::claims_outlive_their_pods", volumes::claims_outlive_their_pods),
    ("volumes::stateful_sets_keep_their_data", volumes::stateful_sets_keep_their_data),
    ("services::reachable_from_everywhere", services::reachable_from_everywhere),
    ("services::rolling_updates_lose_nothing", services::rolling_updates_lose_nothing),
    ("workloads::jobs_run_to_their_end", workloads::jobs_run_to_their_end),
    ("workloads::stateful_sets_keep_names", workloads::stateful_sets_keep_names),
    ("workloads::daemon_sets_have_a_pod_on_the_node", workloads::daemon_sets_have_a_pod_on_the_node),
    ("workloads::autoscalers_follow_what_pods_use", workloads::autoscalers_follow_what_pods_use),
    ("streams::every_kubectl", streams::every_kubectl),
    ("streams::requests_are_passed_on", streams::requests_are_passed_on),
    ("restart::containers_survive_every_kill", restart::containers_survive_every_kill),
    ("restart::a_killed_wasm_host_refuses_no_connection", restart::a_killed_wasm_host_refuses_no_connection),
    ("down::nothing_is_left", down::nothing_is_left),
    ("down::nothing_is_left_after_everything_was_killed", down::nothing_is_left_after_everything_was_killed),
    ("down::other_clusters_are_left_alone", down::other_clusters_are_left_alone),
    ("down::kept_data_come_back", down::kept_data_come_back),
    ("samples::every_sample_does_what_its_page_says", samples::every_sample_does_what_its_page_says),
    ("samples::new_build_and_run", samples::new_build_and_run),
    ("layouts::every_layout_of_an_artifact_runs", layouts::every_layout_of_an_artifact_runs),
    (
        "layouts::what_does_not_run_says_what_it_would_need",
        layouts::what_does_not_run_says_what_it_would_need,
    ),
    ("bad_input::bad_images_are_named_in_the_pod", bad_input::bad_images_are_named_in_the_pod),
    ("bad_input::starting_says_what_is_wrong", bad_input::starting_says_what_is_wrong),
];

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
