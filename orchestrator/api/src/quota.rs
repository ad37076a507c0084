//! ResourceQuotas as functions of values: what a name in a quota counts, how much objects use of it, and what a new
//! or changed object adds. The controller recounts with it, admission charges with it.

mod charge;
mod usage;

pub use charge::{Change, Effect, Refusal, charge};
pub use usage::{Counted, Scope, all_used, counted, scopes, used};
