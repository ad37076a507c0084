//! One suite that every shim passes.
