//! HTTP in, store out: the Kubernetes API over a store of bytes, and the built-in image registry.

pub mod authenticate;
pub mod authorize;
pub mod body;
mod convert;
mod encode;
mod error;
mod hub;
pub mod imageregistry;
mod keys;
pub mod negotiate;
mod options;
pub mod pki;
pub mod query;
pub mod route;
pub mod serve;
pub mod token;
