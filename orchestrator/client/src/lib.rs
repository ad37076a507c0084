//! How a component reaches the API and reacts to it: connect, cache, queue, runner, events, leases.
//!
//! | file | what it gives |
//! | --- | --- |
//! | `connect` | a `kube::Client` over HTTPS (kubeconfig or files), or over a tower service in process |
//! | `cache` | one watched kind in memory, with indexes and change handlers |
//! | `queue` | keys to work on: one slot each, earliest time wins, never two at once |
//! | `runner` | takes keys from a queue, reconciles them, retries with back-off |
//! | `event` | Kubernetes Events with counting, aggregation and a spam limit |
//! | `lease` | heartbeats and leader election |
//! | `roots` | certificate authorities where the system has none |
//! | `object` | small questions about metadata: owner, revision, being deleted? |
//! | `error` | questions about an API error, and the chain of causes as one line |
//!
//! Nobody here knows whether the API is in the same process: the `Client` hides it.

pub mod cache;
pub mod connect;
pub mod error;
pub mod event;
pub mod lease;
pub mod object;
pub mod queue;
pub mod roots;
pub mod runner;

pub use cache::{Cache, Change, Index, Key};
pub use connect::{ConnectError, Credentials, Source, connect, in_process};
pub use event::{EventType, Recorder};
pub use kube::Client;
pub use queue::Queue;
pub use runner::{Outcome, Tasks};
