//! `catamaran shim-oci`, `catamaran shim-wasm`: the shims as sub-commands. They must run before any thread is
//! started: one forks, the other enters a namespace and gives up rights.

use std::path::PathBuf;
use std::process::ExitCode;

use catamaran_shim_oci::ShimOciConfig;
use catamaran_shim_wasm::{CompileConfig, HostConfig, Isolation};
use clap::{Args, Subcommand};

use crate::cluster::chain;

/// A shim's own files.
#[derive(Args)]
struct Place {
    /// Its directory
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Unix socket of the task contract
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// File for its own log
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Oci {
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(crate) struct Wasm {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Runs wasm containers
    Host {
        #[command(flatten)]
        place: Place,
        /// Network namespace to enter
        #[arg(long, value_name = "PATH")]
        netns: Option<PathBuf>,
        /// For one pod alone
        #[arg(long)]
        solo: bool,
    },
    /// Compiles one artifact
    Compile {
        /// The .wasm file
        input: PathBuf,
        /// Where the compiled code goes
        output: PathBuf,
    },
}

impl Oci {
    pub(crate) fn run(self) -> ExitCode {
        let Place { root, socket, log } = self.place;
        catamaran_shim_oci::run(&ShimOciConfig { root, socket, log })
    }
}

impl Wasm {
    pub(crate) fn run(self) -> ExitCode {
        let outcome: Result<(), Box<dyn std::error::Error>> = match self.role {
            Role::Host { place: Place { root, socket, log }, netns, solo } => {
                let isolation = if solo { Isolation::Solo } else { Isolation::Shared };
                let config = HostConfig { root, socket, netns, isolation, log };
                catamaran_shim_wasm::run_host(&config).map_err(Into::into)
            }
            Role::Compile { input, output } => {
                catamaran_shim_wasm::compile::run(&CompileConfig { input, output }).map_err(Into::into)
            }
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("catamaran shim-wasm: {}", chain(&*error));
                ExitCode::FAILURE
            }
        }
    }
}
