//! What the tests share: a cluster as processes, kubectl, waiting for conditions.

pub mod cluster;
pub mod http;
pub mod images;
pub mod kubectl;
pub mod processes;
pub mod registry;
pub mod terminal;
pub mod wait;
