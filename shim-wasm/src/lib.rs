//! shim-wasm: runs WebAssembly containers. Two roles of one code base: [`compile`] turns an artifact
//! into code for this machine, in a short-lived limited process; the host ([`run_host`]) maps that
//! code and runs containers behind the contract of `catamaran-task`, one process for a trust domain
//! or for one pod alone.
//!
//! | file | what |
//! | --- | --- |
//! | `compile`, `seal` | the compile role; what must be true of its files before they are run |
//! | `engine`, `ticker` | engines by tier of features; the clock that interrupts guests |
//! | `run`, `confine`, `runtimes` | the host as a process |
//! | `host`, `container` | the verbs; one container's life |
//! | `program` | from a compiled file to something instantiable |
//! | `guest`, `memory`, `cpu`, `output`, `stdin`, `net` | what an instance gets, and its limits |
//! | `http`, `command` | the two ways to run |
//! | `outcome` | how a guest ended, in the contract's words |

mod command;
pub mod compile;
mod confine;
mod container;
mod cpu;
mod engine;
mod guest;
mod host;
mod http;
mod memory;
mod net;
mod outcome;
mod output;
mod program;
mod run;
mod runtimes;
mod seal;
mod stdin;
mod ticker;

pub use compile::{CompileConfig, CompileError};
pub use confine::ConfineError;
pub use engine::Isolation;
pub use host::WasmHost;
pub use program::ProgramError;
pub use run::{HostConfig, HostError, run_host};
