//! Which node a pod runs on: queue → snapshot → filter → score → assume → bind.
//!
//! | file | what |
//! | --- | --- |
//! | `pod` | what the scheduler reads of a pod, and what it makes of it |
//! | `node` | a row of the table of nodes |
//! | `snapshot` | the table, kept up to date change by change |
//! | `filter` | may it run there, and if not, why |
//! | `score` | how well it would run there |
//! | `place` | both together: the node, or the reasons (pure) |
//! | `cycle` | the loop: next pod, place, assume, bind |
//! | `bind` | writes the decision, or says that there is none |

mod bind;
mod cycle;
mod filter;
mod node;
mod place;
mod pod;
mod resources;
mod score;
mod snapshot;
mod waiting;

pub use cycle::run;
pub use filter::Refusal;
pub use node::{Node, NodeRow};
pub use place::{Unschedulable, place};
pub use pod::{Pod, Request};
pub use resources::Resources;
pub use snapshot::Snapshot;

/// Name in `spec.schedulerName` of the pods that are ours.
pub const NAME: &str = "default-scheduler";
