//! Paths below an object.

pub(crate) mod binding;
pub(crate) mod eviction;
pub(crate) mod proxy;
pub(crate) mod reviews;
pub(crate) mod scale;
pub(crate) mod streams;
pub(crate) mod token;
