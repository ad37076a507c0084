//! The words that those who make, place, mount and remove volumes of the StorageClass `local-path` share: each such
//! volume is a directory of one node.

/// The class that every cluster has from the start; the default one.
pub const CLASS: &str = "local-path";
/// Provisioner of the class, and CSI driver of its volumes.
pub const PROVISIONER: &str = "local-path.catamaran.dev";
/// Keeps a PersistentVolume until its node has removed the directory.
pub const FINALIZER: &str = "local-path.catamaran.dev/directory";
/// `status.reason` of a PersistentVolume whose node says that the directory is gone.
pub const REMOVED: &str = "DirectoryRemoved";
/// The label of a node that its volumes are bound to.
pub const NODE_LABEL: &str = "kubernetes.io/hostname";

/// Keeps a PersistentVolume that is bound (Kubernetes' own).
pub const VOLUME_IN_USE: &str = "kubernetes.io/pv-protection";
/// Keeps a PersistentVolumeClaim that pods use (Kubernetes' own).
pub const CLAIM_IN_USE: &str = "kubernetes.io/pvc-protection";
/// The annotation by which the scheduler says on which node a claim is needed (Kubernetes' own).
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The annotation of a claim that has its volume for good (Kubernetes' own).
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";

/// Whether `handle` may name a directory of its own: what a provisioner makes, and nothing that leads elsewhere.
#[must_use]
pub fn is_handle(handle: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    (1..=253).contains(&handle.len()) && handle.bytes().all(plain) && !handle.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_leads_nowhere_else() {
        for good in ["pvc-0b1c", "a.b"] {
            assert!(is_handle(good), "{good}");
        }
        for bad in ["", ".", "..", "../x", "a/b", "A", "a b", ".hidden", "a\0"] {
            assert!(!is_handle(bad), "{bad:?}");
        }
    }
}
