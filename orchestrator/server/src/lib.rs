//! HTTP in, store out: the Kubernetes API over a store of bytes, and the built-in image registry.
//!
//! The way of a request, file by file: `serve` (sockets) → `dispatch`: `route`, `authenticate`, `impersonate`, `authorize`
//! (with `rbac/`) → `verbs/` or `subresources/` → `registry` (default, `admit/`, validate, write) → store → `hub` → watchers.

mod admit;
mod agent;
pub mod authenticate;
pub mod authorize;
pub mod body;
mod bootstrap;
mod context;
mod convert;
mod core;
mod discovery;
mod dispatch;
mod encode;
mod error;
mod expire;
mod fields;
mod health;
mod hub;
mod identity;
pub mod imageregistry;
mod impersonate;
mod keys;
mod media;
mod metrics;
pub mod negotiate;
mod node;
mod openapi;
mod options;
pub mod pki;
pub mod query;
pub mod rbac;
mod registry;
pub mod route;
pub mod serve;
mod server;
mod strategy;
mod subresources;
mod table;
pub mod token;
mod upstream;
mod usage;
mod verbs;
mod warnings;

pub use crate::core::{ServerConfig, ServerError, ServiceRange};
pub use authenticate::UserInfo;
pub use body::Body;
pub use imageregistry::{ImageRegistryConfig, run_image_registry};
pub use serve::{Binding, Listen};
pub use server::{InProcess, Server, run};
