//! Starts processes in namespaces of their own. The parent compiles a specification into a flat plan;
//! the child, made by clone3, walks it with raw system calls, so that this may be called from a
//! process with many threads.
//!
//! | file | what |
//! | --- | --- |
//! | `compile` | an OCI specification into a plan for a container's first process |
//! | `process` | the part of a plan that a container's first and its later processes share |
//! | `mounts` | options of mounts |
//! | `capability` | sets of capabilities |
//! | `seccomp`, `syscalls` | a profile into filter programs |
//! | `plan` | the operations, and how each is told in an error |
//! | `child` | the walk |
//! | `sys` | system calls without allocation |

pub(crate) mod capability;
pub(crate) mod child;
pub(crate) mod compile;
pub(crate) mod mounts;
pub(crate) mod plan;
pub(crate) mod process;
pub(crate) mod seccomp;
mod start;
pub(crate) mod sys;
mod syscalls;

pub(crate) use start::{Gate, LaunchError, Launched, exit_of, launch};
