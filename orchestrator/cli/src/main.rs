//! The one binary: parses the command line, sets up logs, runs the command. Wiring, no logic.

mod authorities;
mod cluster;
mod commands;
mod demo;
mod follow;
mod images;
mod layout;
mod pod_network;
mod preflight;
mod progress;
mod project;
mod spans;
mod stop;
mod supervise;
mod sweep;
mod view;
mod wait;

use std::process::ExitCode;

use clap::Parser;
use commands::{Cli, Command, Outcome};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            // Writing the usage to a closed terminal fails; there is nothing else to say.
            let _ = usage.print();
            return ExitCode::from(if usage.use_stderr() { 2 } else { 0 });
        }
    };
    logs();
    // Fails only when a provider is installed already, which is then the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Shims fork or give up rights first: no runtime, hence no thread, for them here.
    let command = match cli.command {
        Command::ShimOci(shim) => return shim.run(),
        Command::ShimWasm(shim) => return shim.run(),
        command => command,
    };
    let outcome = runtime(&command).and_then(|runtime| runtime.block_on(run(command)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("catamaran: {}", cluster::chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn runtime(command: &Command) -> Result<tokio::runtime::Runtime, Box<dyn std::error::Error + Send + Sync>> {
    // Parts that only wait need one thread.
    let single = matches!(command, Command::Supervisor(_) | Command::Dns(_));
    let mut builder = if single {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    Ok(builder.enable_all().build().map_err(|e| format!("cannot start the runtime: {e}"))?)
}

async fn run(command: Command) -> Outcome {
    match command {
        Command::Up(up) => up.run().await,
        Command::Down(down) => down.run().await,
        Command::Status(status) => status.run().await,
        Command::Kubeconfig(kubeconfig) => kubeconfig.run(),
        Command::New(new) => new.run(),
        Command::Build(build) => build.run(),
        Command::Run(run) => run.run().await,
        Command::Push(push) => push.run().await,
        Command::Image(image) => image.run().await,
        Command::Server(server) => server.run().await,
        Command::Agent(agent) => agent.run().await,
        Command::Dns(dns) => dns.run().await,
        Command::Supervisor(supervisor) => supervisor.run().await,
        Command::ShimOci(_) | Command::ShimWasm(_) => unreachable!("handled before the runtime starts"),
    }
}

/// Logs go to stderr: a file for the parts, the terminal for commands. `CATAMARAN_LOG` chooses what.
fn logs() {
    // What the client library cannot send it returns as an error: who called it tells it, where it matters.
    let usual = "warn,kube_client=off,catamaran=info,catamaran_server=info,catamaran_agent=info";
    let filter = EnvFilter::try_from_env("CATAMARAN_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let text = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let text = tracing_subscriber::Layer::with_filter(text, filter);
    tracing_subscriber::registry().with(text).with(spans::SpanLog::from_environment()).init();
}
