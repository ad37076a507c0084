//! Why an image is not here, in the words of the kubelet.

use std::error::Error;
use std::io;
use std::sync::Arc;

use oci_client::errors::{OciDistributionError, OciErrorCode};

use super::super::compile::CompileError;
use super::super::content::BadDigest;
use super::super::detect::DetectError;
use super::super::unpack::UnpackError;

/// Why an image is not here. Cheap to clone: all who wait for the pull get it.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum PullError {
    #[error("couldn't parse image name {name:?}: {why}")]
    Name { name: String, why: String },
    #[error("Container image {0:?} is not present with pull policy of Never")]
    Never(String),
    #[error("failed to resolve reference {0:?}: {0}: not found in the registry; check the name and the tag")]
    NotFound(String),
    #[error("failed to pull manifest of {name}")]
    Manifest {
        name: String,
        #[source]
        source: Arc<OciDistributionError>,
    },
    #[error("failed to pull {digest} of {name}")]
    Blob {
        name: String,
        digest: String,
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    #[error("{name} has a wrong digest: {expected} was asked for and the registry sent {actual}")]
    WrongDigest { name: String, expected: String, actual: String },
    #[error(transparent)]
    BadDigest(#[from] BadDigest),
    #[error("{name} is no image: {why}")]
    Document { name: String, why: String },
    #[error(
        "no match for platform in manifest: {name} has no image for linux/{arch} and none for wasm; it has: {has}"
    )]
    Platform { name: String, arch: &'static str, has: String },
    #[error("{name} does not run here")]
    Detect {
        name: String,
        #[source]
        source: DetectError,
    },
    #[error("failed to unpack layer {digest} of {name}")]
    Unpack {
        name: String,
        digest: String,
        #[source]
        source: Arc<UnpackError>,
    },
    #[error("failed to compile {name}")]
    Compile {
        name: String,
        #[source]
        source: Arc<CompileError>,
    },
    #[error("the image store cannot be written")]
    Store(#[source] Arc<io::Error>),
}

// === impl PullError ===

impl PullError {
    /// The reason in the container's waiting state.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            PullError::Name { .. } => "InvalidImageName",
            PullError::Never(_) => "ErrImageNeverPull",
            _ => "ErrImagePull",
        }
    }

    /// Reason and text of the event that comes before `Error: REASON`, in the kubelet's words.
    pub(crate) fn event(&self, image: &str) -> (&'static str, String) {
        match self {
            PullError::Name { .. } => {
                ("InspectFailed", format!("Failed to apply default image tag {image:?}: {}", self.text()))
            }
            PullError::Never(_) => ("ErrImageNeverPull", self.text()),
            _ => ("Failed", format!("Failed to pull image {image:?}: {}", self.text())),
        }
    }

    /// All of it in one line.
    pub(crate) fn text(&self) -> String {
        catamaran_client::error::Chain(self).to_string()
    }
}

/// Whether the registry answered that there is no such image.
pub(super) fn is_not_found(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_)
        | OciDistributionError::ServerError { code: 404, .. } => true,
        OciDistributionError::RegistryError { envelope, .. } => envelope.errors.iter().any(|error| {
            matches!(
                error.code,
                OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound
            )
        }),
        _ => false,
    }
}
