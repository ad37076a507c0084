//! shim-oci
