//! The host with real guests: one test program, so that wasmtime is linked once.

#![allow(clippy::unwrap_used)]

mod commands;
mod common;
mod conformance;
mod http;
mod network;
