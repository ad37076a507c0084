//! What a shim is called: in messages, in the data directory, and in the path of its socket.

use sha2::{Digest, Sha256};

use crate::runtime::ShimKey;

/// For people.
pub(super) fn name(key: &ShimKey) -> String {
    match key {
        ShimKey::Oci => "the container shim".into(),
        ShimKey::Shared(domain) => format!("the wasm host of {domain}"),
        ShimKey::Solo(uid) => format!("the wasm host of pod {uid}"),
    }
}

/// Folder of the shim's state below `shim/`.
pub(super) fn folder(key: &ShimKey) -> String {
    match key {
        ShimKey::Oci => "oci".into(),
        ShimKey::Shared(domain) => format!("wasm/{domain}"),
        ShimKey::Solo(uid) => format!("wasm/pod-{uid}"),
    }
}

/// Short, since it is part of a socket's path.
pub(super) fn short_name(key: &ShimKey) -> String {
    let digest = |text: &str| {
        Sha256::digest(text.as_bytes()).iter().take(6).map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    match key {
        ShimKey::Oci => "oci".into(),
        ShimKey::Shared(domain) => format!("wasm-{}", digest(domain)),
        ShimKey::Solo(uid) => format!("solo-{}", digest(uid)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_names_are_short_and_differ() {
        let keys = [
            ShimKey::Oci,
            ShimKey::Shared("default".into()),
            ShimKey::Shared("shop".into()),
            ShimKey::Solo("0b1c7f52-7c0e-4c8e-9d0a-0a6d9d6a8f11".into()),
        ];
        let names: std::collections::HashSet<_> = keys.iter().map(short_name).collect();
        assert_eq!(names.len(), keys.len());
        assert!(names.iter().all(|name| name.len() <= 20));
    }
}
