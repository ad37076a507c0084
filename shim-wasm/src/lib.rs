//! shim-wasm
