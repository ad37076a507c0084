//! The command line: one file a command.

pub(crate) mod agent;
pub(crate) mod build;
pub(crate) mod dns;
pub(crate) mod down;
pub(crate) mod image;
pub(crate) mod kubeconfig;
pub(crate) mod new;
pub(crate) mod push;
pub(crate) mod run;
pub(crate) mod server;
pub(crate) mod shim;
pub(crate) mod status;
pub(crate) mod supervisor;
pub(crate) mod up;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::layout::DATA_DIR;

/// WebAssembly pods beside containers, behind the Kubernetes API.
#[derive(Parser)]
#[command(name = "catamaran", version, about, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Start a cluster on this machine (as root)
    Up(up::Up),
    /// Stop it: pods, agent, server; nothing is left behind
    Down(down::Down),
    /// Show what runs
    Status(status::Status),
    /// Print the path or the text of the administrator's kubeconfig
    Kubeconfig(kubeconfig::Kubeconfig),
    /// Make a folder with a program and its manifest
    New(new::New),
    /// Build a project's program with its language's own tools
    Build(build::Build),
    /// Build, push and deploy a project; show where it answers and what it writes
    Run(run::Run),
    /// Push a .wasm file or an OCI layout into the built-in registry
    Push(push::Push),
    /// Look at images: ls, rm, pull
    Image(image::Image),
    /// Part: API server, controllers, scheduler, image registry
    Server(server::Server),
    /// Part: node agent
    Agent(agent::Agent),
    /// Part: cluster DNS
    Dns(dns::Dns),
    /// Part: starts the others and starts them again
    #[command(hide = true)]
    Supervisor(supervisor::Supervisor),
    /// Part: containers of this node
    #[command(hide = true)]
    ShimOci(shim::Oci),
    /// Part: wasm containers of one trust domain, and the compiler
    #[command(hide = true)]
    ShimWasm(shim::Wasm),
}

/// Where the cluster keeps its things.
#[derive(Args, Clone)]
pub(crate) struct DataDir {
    /// Directory of everything that is kept
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    pub(crate) data_dir: PathBuf,
}

impl DataDir {
    pub(crate) fn layout(&self) -> crate::layout::Layout {
        crate::layout::Layout::of(&self.data_dir)
    }
}

/// Any error of a command, printed once at the edge with its causes.
pub(crate) type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;
