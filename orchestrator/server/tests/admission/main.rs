//! Admission as clients meet it: quotas, limit ranges, pod security, what nodes may do, webhooks, and what the server
//! adds. Through the tower service; webhooks are real HTTPS servers.

#![allow(clippy::unwrap_used)]

mod api;
mod defaults;
mod hook;
mod limits;
mod nodes;
mod quota;
mod security;
mod webhooks;
