//! Objects encrypted at rest: `config` says which kinds with which keys, `provider` is the cryptography, `store` a
//! store around the store that encrypts what goes in and decrypts what comes out. Nobody else knows.

mod config;
mod provider;
mod store;

pub(crate) use config::Encryption;
pub use config::EncryptionError;
pub(crate) use store::Encrypted;
