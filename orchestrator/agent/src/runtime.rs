//! Which shim runs a container: decided by what its image is, and by the isolation the RuntimeClass asks for.
//! Pure; `shims` starts the processes.
//!
//! | handler | image is wasm | image is a Linux image |
//! | --- | --- | --- |
//! | none, pod is all wasm | shared host of the pod's trust domain | – |
//! | none, pod is mixed | own host process inside the pod's network namespace | shim-oci |
//! | `wasm` | shared host | error in the container's status |
//! | `wasm-isolated` | own host process | shim-oci |
//! | `oci` | error in the container's status | shim-oci |

use serde::{Deserialize, Serialize};

use crate::images::detect::ImageKind;

/// Names of the runtime handlers this node offers.
pub const HANDLERS: [&str; 3] = ["oci", "wasm", "wasm-isolated"];

/// What `runtimeClassName` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handler {
    /// No class: the image alone decides.
    ByImage,
    Wasm,
    WasmIsolated,
    Oci,
}

/// Where a pod lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Place {
    /// In the wasm host that the pods of a trust domain share.
    Shared { domain: String },
    /// In a network namespace of its own.
    Own,
    /// In the node's network namespace (`hostNetwork`).
    Host,
}

/// One shim process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ShimKey {
    /// The node's container shim.
    Oci,
    /// The wasm host of a trust domain.
    Shared(String),
    /// A wasm host for one pod (its UID).
    Solo(String),
}

/// The RuntimeClass and the image contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Mismatch {
    #[error(
        "the RuntimeClass \"wasm\" runs WebAssembly only, but this image holds a Linux file system; leave runtimeClassName out, or use \"oci\" or \"wasm-isolated\""
    )]
    LinuxInWasm,
    #[error(
        "the RuntimeClass \"oci\" runs Linux containers only, but this image is WebAssembly; leave runtimeClassName out, or use \"wasm\" or \"wasm-isolated\""
    )]
    WasmInOci,
    #[error(
        "this image is WebAssembly, which has no place in the node's own network namespace; leave hostNetwork out"
    )]
    WasmOnHostNetwork,
}

/// No such handler here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no runtime handler {0:?} on this node; there are: {all}", all = HANDLERS.join(", "))]
pub(crate) struct UnknownHandler(pub(crate) String);

impl Handler {
    /// The handler of that name; none when the pod names no class.
    pub(crate) fn parse(name: Option<&str>) -> Result<Self, UnknownHandler> {
        match name {
            None | Some("") => Ok(Handler::ByImage),
            Some("wasm") => Ok(Handler::Wasm),
            Some("wasm-isolated") => Ok(Handler::WasmIsolated),
            Some("oci") => Ok(Handler::Oci),
            Some(other) => Err(UnknownHandler(other.to_owned())),
        }
    }
}

/// Where a pod with these images belongs; `None` while that depends on an image that is not here yet.
pub(crate) fn place(
    handler: Handler,
    host_network: bool,
    images: &[Option<ImageKind>],
    domain: &str,
) -> Option<Place> {
    if host_network {
        return Some(Place::Host);
    }
    let shared = || Place::Shared { domain: domain.to_owned() };
    match handler {
        Handler::Wasm => Some(shared()),
        Handler::WasmIsolated | Handler::Oci => Some(Place::Own),
        Handler::ByImage if images.contains(&Some(ImageKind::Linux)) => Some(Place::Own),
        Handler::ByImage => images.iter().all(Option::is_some).then(shared),
    }
}

/// The shim for a container of a pod that lives in `place`.
pub(crate) fn shim(
    handler: Handler,
    place: &Place,
    image: ImageKind,
    uid: &str,
) -> Result<ShimKey, Mismatch> {
    match (image, handler, place) {
        (ImageKind::Linux, Handler::Wasm, _) => Err(Mismatch::LinuxInWasm),
        // A pod that was placed when all its images were wasm and whose image changed since.
        (ImageKind::Linux, _, Place::Shared { .. }) => Err(Mismatch::LinuxInWasm),
        (ImageKind::Linux, ..) => Ok(ShimKey::Oci),
        (ImageKind::Wasm(_), Handler::Oci, _) => Err(Mismatch::WasmInOci),
        (ImageKind::Wasm(_), _, Place::Host) => Err(Mismatch::WasmOnHostNetwork),
        (ImageKind::Wasm(_), _, Place::Shared { domain }) => Ok(ShimKey::Shared(domain.clone())),
        (ImageKind::Wasm(_), _, Place::Own) => Ok(ShimKey::Solo(uid.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::detect::WasmKind;

    const LINUX: ImageKind = ImageKind::Linux;
    const WASM: ImageKind = ImageKind::Wasm(WasmKind::Http);

    fn shared() -> Place {
        Place::Shared { domain: "shop".into() }
    }

    #[test]
    fn the_place_follows_from_the_images() {
        use Handler::*;
        type Row<'a> = (Handler, &'a [Option<ImageKind>], Option<Place>);
        let table: &[Row<'_>] = &[
            (ByImage, &[Some(WASM)], Some(shared())),
            (ByImage, &[Some(WASM), Some(LINUX)], Some(Place::Own)),
            (ByImage, &[None, Some(LINUX)], Some(Place::Own)),
            (ByImage, &[None, Some(WASM)], None),
            (ByImage, &[None], None),
            (Wasm, &[None], Some(shared())),
            (WasmIsolated, &[None], Some(Place::Own)),
            (Oci, &[Some(WASM)], Some(Place::Own)),
        ];
        for (handler, images, expected) in table {
            assert_eq!(&place(*handler, false, images, "shop"), expected, "{handler:?} {images:?}");
        }
        assert_eq!(place(ByImage, true, &[None], "shop"), Some(Place::Host));
    }

    #[test]
    fn the_shim_follows_from_place_and_image() {
        use Handler::*;
        let solo = || Ok(ShimKey::Solo("u1".into()));
        let table = [
            (ByImage, shared(), WASM, Ok(ShimKey::Shared("shop".into()))),
            (ByImage, Place::Own, WASM, solo()),
            (ByImage, Place::Own, LINUX, Ok(ShimKey::Oci)),
            (Wasm, shared(), LINUX, Err(Mismatch::LinuxInWasm)),
            (WasmIsolated, Place::Own, WASM, solo()),
            (WasmIsolated, Place::Own, LINUX, Ok(ShimKey::Oci)),
            (Oci, Place::Own, WASM, Err(Mismatch::WasmInOci)),
            (Oci, Place::Own, LINUX, Ok(ShimKey::Oci)),
            (ByImage, Place::Host, WASM, Err(Mismatch::WasmOnHostNetwork)),
            (ByImage, Place::Host, LINUX, Ok(ShimKey::Oci)),
        ];
        for (handler, place, image, expected) in table {
            assert_eq!(shim(handler, &place, image, "u1"), expected, "{handler:?} {place:?} {image:?}");
        }
    }

    #[test]
    fn an_unknown_handler_names_the_known_ones() {
        let error = Handler::parse(Some("kata")).unwrap_err().to_string();
        assert!(error.contains("kata") && error.contains("wasm-isolated"), "{error}");
        assert_eq!(Handler::parse(None), Ok(Handler::ByImage));
    }
}
