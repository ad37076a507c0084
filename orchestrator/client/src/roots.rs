//! Whom TLS clients of other servers (image registries) trust where the system says nothing.

/// Mozilla's list of certificate authorities, each in DER, when this system has no list of its own, as a small Debian
/// without `ca-certificates` has none; otherwise nothing, for what the system trusts is its administrator's choice.
///
/// A client with no authority at all cannot be made, not even one that then speaks plain HTTP.
#[must_use]
pub fn where_the_system_has_none() -> Vec<Vec<u8>> {
    if !rustls_native_certs::load_native_certs().certs.is_empty() {
        return Vec::new();
    }
    webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(|authority| authority.to_vec()).collect()
}
