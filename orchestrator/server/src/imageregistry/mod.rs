//! The built-in image registry: the OCI distribution API and nothing else, content on disk, every byte
//! verified against its digest.
//!
//! | file | what |
//! | --- | --- |
//! | `name` | repository names, tags, digests |
//! | `path` | request paths, pure |
//! | `disk` | the folder: blobs by digest, links by repository, uploads |
//! | `blobs`, `uploads`, `manifests` | the endpoints |
//! | `error` | the API's errors |

mod blobs;
mod disk;
mod error;
mod manifests;
mod name;
mod path;
mod uploads;

use std::path::PathBuf;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Request, Response};

use crate::body::{self, Body};
use crate::query::Query;
use crate::serve::{Handler, Listen, Listeners, ServeError};

use disk::Disk;
use error::RegistryError;
use path::Endpoint;

/// What the registry needs to run.
#[derive(Debug, Clone)]
pub struct ImageRegistryConfig {
    /// The folder with its content.
    pub data_dir: PathBuf,
    /// Where it listens, plain HTTP.
    pub listen: Vec<Listen>,
}

/// Why the registry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ImageRegistryError {
    /// The folder cannot be used.
    #[error("the registry's folder {path} cannot be used")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// No socket.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Serves images until `stop` resolves.
///
/// # Errors
/// When the folder or an address cannot be used.
pub async fn run_image_registry(
    config: ImageRegistryConfig,
    stop: impl Future<Output = ()>,
) -> Result<(), ImageRegistryError> {
    let disk = Disk::open(&config.data_dir)
        .await
        .map_err(|source| ImageRegistryError::Folder { path: config.data_dir.clone(), source })?;
    let mut listeners = Listeners::new(ImageRegistry(Arc::new(disk)));
    for listen in &config.listen {
        listeners.add(listen.open()?, None);
    }
    stop.await;
    listeners.stop().await;
    Ok(())
}

#[derive(Clone)]
struct ImageRegistry(Arc<Disk>);

impl Handler for ImageRegistry {
    async fn handle(&self, request: Request<Body>) -> Response<Body> {
        let mut response = match self.answer(request).await {
            Ok(response) => response,
            Err(error) => error.response(),
        };
        response.headers_mut().insert(
            HeaderName::from_static("docker-distribution-api-version"),
            HeaderValue::from_static("registry/2.0"),
        );
        response
    }
}

impl ImageRegistry {
    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, RegistryError> {
        let query = Query::parse(request.uri().query());
        let endpoint = path::endpoint(request.method(), request.uri().path())?;
        let disk = &self.0;
        match endpoint {
            Endpoint::Base => Ok(body::json(200, "{}")),
            Endpoint::Blob(verb, name, digest) => {
                blobs::answer(disk, verb, (&name, &digest), request.headers()).await
            }
            Endpoint::StartUpload(name) => uploads::start(disk, &name, &query, request).await,
            Endpoint::Upload(verb, name, id) => {
                uploads::answer(disk, verb, (&name, &id), &query, request).await
            }
            Endpoint::Manifest(verb, name, reference) => {
                manifests::answer(disk, verb, (&name, &reference), request).await
            }
            Endpoint::Tags(name) => manifests::tags(disk, &name, &query).await,
            Endpoint::Referrers(name, digest) => manifests::referrers(disk, &name, &digest, &query).await,
        }
    }
}

#[cfg(test)]
mod tests;
