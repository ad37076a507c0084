//! Custom resources over HTTP, in one process: definitions in the manner of cert-manager and of the Gateway API,
//! their objects, and what becomes of both when the server starts again.

#![allow(clippy::unwrap_used)]
#![recursion_limit = "256"]

mod api;
mod definitions;
mod manifests;
mod objects;
mod rules;
mod webhook;
mod writes;
