//! The contract between the agent and the shims: containerd's Task API and, beside it on the same
//! socket, a second service for what that lacks. Knows nothing of Kubernetes.
//!
//! | file | what |
//! | --- | --- |
//! | `spec` | what a shim is told about a container |
//! | `status` | states, exits, figures |
//! | `pods` | the verbs, as a trait |

pub mod pods;
pub mod spec;
pub mod status;
