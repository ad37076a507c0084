//! The contract between the agent and the shims: containerd's Task API and, beside it on the same
//! socket, a second service for what that lacks. Knows nothing of Kubernetes.
//!
//! | file | what |
//! | --- | --- |
//! | `spec` | what a shim is told about a container |
//! | `status` | states, exits, figures |
//! | `pods` | the verbs, as a trait |
//! | `wire` | all that knows ttrpc: service names, payloads, error codes |
//! | `client` | the verbs, called over the socket |
//! | `server` | the verbs, served on the socket |
//! | `task_api` | containerd's Task API in terms of the verbs |
//! | `fds` | descriptors handed over beside ttrpc, which cannot carry them |
//! | `cri_log` | the log format that kubectl's readers expect |
//! | `conformance` | one suite that every shim passes |

pub mod client;
pub mod conformance;
pub mod cri_log;
pub mod fds;
pub mod pods;
pub mod server;
pub mod spec;
pub mod status;
mod task_api;
mod wire;

pub use client::TaskClient;
pub use cri_log::{CriLogWriter, LogStream};
pub use fds::FdTable;
pub use pods::{ExecSpec, ExitEvent, Pods, TaskError};
pub use wire::{TASK_V2, TASK_V3};
