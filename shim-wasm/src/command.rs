//! Programs that run to an end: `wasi:cli/run` of 0.2 and 0.3, and WASI p1 modules.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use catamaran_task::status::{Exit, ExitReason};
use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use wasmtime::component::InstancePre;

use crate::cpu::Metered;
use crate::guest::{Guest, GuestTemplate};
use crate::outcome::{self, Growth};
use crate::program::{Entry, Program};
use crate::ticker::Ticker;

/// Runs the program once. Cancelling `killed` drops the instance where it stands.
pub(crate) async fn run(
    program: Arc<Program>,
    template: Arc<GuestTemplate>,
    ticker: Arc<Ticker>,
    killed: CancellationToken,
) -> Exit {
    let meter = Arc::clone(&template.cpu);
    let inside = Arc::clone(&template);
    let body = Metered::new(async move { execute(&program, &inside).await }, &meter, &ticker);
    let ended = tokio::select! {
        biased;
        () = killed.cancelled() => return outcome::exit(outcome::KILLED_CODE, ExitReason::Exited, None),
        ended = AssertUnwindSafe(body).catch_unwind() => ended,
    };
    let growth = if template.memory.take_refused() { Growth::Refused } else { Growth::Granted };
    let exit = match ended {
        Ok(result) => outcome::of_command(result, growth),
        Err(_panic) => {
            let message = "the host failed while it ran this program; the host's log has the details";
            outcome::exit(outcome::KILLED_CODE, ExitReason::Lost, Some(message.into()))
        }
    };
    if let Some(message) = &exit.message {
        template.output.note(message);
    }
    exit
}

async fn execute(program: &Program, template: &GuestTemplate) -> wasmtime::Result<Result<(), ()>> {
    match &program.entry {
        Entry::Command2(pre) => {
            let mut store = template.store(&program.engine)?;
            let command = pre.instantiate_async(&mut store).await?;
            command.wasi_cli_run().call_run(&mut store).await
        }
        Entry::Command3(pre) => command3(pre, program, template).await,
        Entry::Module(pre) => {
            let mut store = template.module_store(&program.engine)?;
            let instance = pre.instantiate_async(&mut store).await?;
            let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
            start.call_async(&mut store, ()).await.map(Ok)
        }
        Entry::Http2(_) | Entry::Http3(_) => {
            Err(wasmtime::format_err!("an HTTP component is not run as a command"))
        }
    }
}

async fn command3(
    pre: &InstancePre<Guest>,
    program: &Program,
    template: &GuestTemplate,
) -> wasmtime::Result<Result<(), ()>> {
    let mut store = template.store(&program.engine)?;
    let instance = pre.instantiate_async(&mut store).await?;
    let command = wasmtime_wasi::p3::bindings::Command::new(&mut store, &instance)?;
    store.run_concurrent(async move |accessor| command.wasi_cli_run().call_run(accessor).await).await?
}
