//! What real clients expect of the API, over the tower service: every resource with every verb, every form of an answer,
//! lists and watches, writes and deletions, point by point.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod forms;
mod immutable;
mod matrix;
mod reads;
mod samples;
mod usage;
mod writes;
