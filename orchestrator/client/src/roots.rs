//! Whom TLS clients of other servers (image registries) trust where the system says nothing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Mozilla's list of certificate authorities in PEM, when this system has no list of its own, as a small Debian without
/// `ca-certificates` has none; otherwise nothing, for what the system trusts is its administrator's choice.
#[must_use]
pub fn where_the_system_has_none() -> Option<String> {
    let own = rustls_native_certs::load_native_certs();
    own.certs
        .is_empty()
        .then(|| webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(|root| pem(root)).collect())
}

/// One certificate as RFC 7468 wants it: lines of 64 characters.
fn pem(certificate: &[u8]) -> String {
    let text = STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for (index, character) in text.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem + "\n-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_authority_can_be_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("authorities.pem");
        let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS;
        std::fs::write(&file, roots.iter().map(|root| pem(root)).collect::<String>()).unwrap();
        let read = rustls_native_certs::load_certs_from_paths(Some(&file), None);
        assert!(read.errors.is_empty(), "{:?}", read.errors);
        assert_eq!(read.certs.len(), roots.len());
    }
}
