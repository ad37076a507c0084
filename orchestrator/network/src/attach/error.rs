//! Why the network of a pod or of the node could not be made.

use std::io;
use std::path::{Path, PathBuf};

use crate::ipam::{Cidr, InvalidCidr};
use crate::namespace::NamespaceError;
use crate::netlink::NetlinkError;

/// A failed step, with its cause as source.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A file of ours could not be read or written.
    #[error("cannot read or write {path}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file with this node's blocks is damaged.
    #[error("{path} does not list this node's address blocks; remove it when no pod runs here")]
    Blocks {
        /// Which file.
        path: PathBuf,
        /// The line at fault.
        #[source]
        source: InvalidCidr,
    },
    /// A pod UID or a trust domain that cannot be a file name.
    #[error("{0:?} is no pod UID and no trust domain: letters, digits, '-', '.' and '_' only, at most 200")]
    Name(String),
    /// The pod range is used up.
    #[error("no address is left in {0}: delete pods, or choose a larger pod range")]
    NoAddress(Cidr),
    /// The pod range cannot hold one block.
    #[error("the pod range {0} is smaller than one block of /24")]
    SmallRange(Cidr),
    /// A block could not be claimed at the API.
    #[error("cannot claim an address block for this node at the API")]
    Claim(#[source] kube::Error),
    /// Forwarding of packets could not be switched on.
    #[error("cannot switch on net.ipv4.ip_forward, which pods need to reach anything")]
    Forwarding(#[source] io::Error),
    /// A namespace could not be made, entered or dropped.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A netlink request failed.
    #[error("cannot {step}")]
    Kernel {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: NetlinkError,
    },
    /// A link that was just made is not there.
    #[error("the link {0} vanished while it was set up")]
    LinkGone(String),
    /// The work was given up because the process ends.
    #[error("the process ends")]
    Ending,
}

/// Names the step that a netlink request was.
pub(super) trait Step<T> {
    /// `step` completes the sentence "cannot …".
    fn step(self, step: &'static str) -> Result<T, NetworkError>;
}

impl<T> Step<T> for Result<T, NetlinkError> {
    fn step(self, step: &'static str) -> Result<T, NetworkError> {
        self.map_err(|source| NetworkError::Kernel { step, source })
    }
}

/// Names the file that an operation was on.
pub(super) trait OnFile<T> {
    /// Adds the path to the error.
    fn on(self, path: &Path) -> Result<T, NetworkError>;
}

impl<T> OnFile<T> for io::Result<T> {
    fn on(self, path: &Path) -> Result<T, NetworkError> {
        self.map_err(|source| NetworkError::File { path: path.to_owned(), source })
    }
}
