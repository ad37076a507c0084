//! A `kube::Client` from a kubeconfig, from certificate files, or over a service in the same process.

use std::collections::BTreeMap;
use std::path::PathBuf;

use http::{Request, Response, Uri};
use kube::client::Body;
use kube::config::{
    AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext,
};
use kube::{Client, Config};
use tower::{BoxError, Service};

/// Where the way to the API is written down.
#[derive(Clone, Debug)]
pub enum Source {
    /// A kubeconfig file; its current context is used.
    Kubeconfig(PathBuf),
    /// The address of the server and the files of a client certificate.
    Files(Credentials),
}

/// A server and the PEM files for mutual TLS with it.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// For example `https://127.0.0.1:6443`.
    pub server: Uri,
    /// The certificate authority that signed the server's certificate.
    pub ca: PathBuf,
    /// The client certificate: its common name is the user, its organizations are the groups.
    pub certificate: PathBuf,
    /// The private key of the client certificate.
    pub key: PathBuf,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig file cannot be read or parsed.
    #[error("cannot use the kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file that was asked for.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// The certificate authority's file cannot be read.
    #[error("cannot use the certificates for {server}")]
    Files {
        /// The server that was asked for.
        server: Uri,
        /// What is wrong with the files.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// The TLS configuration was refused, for example because key and certificate do not belong together.
    #[error("cannot set up TLS for {server}")]
    Tls {
        /// The server of the configuration.
        server: Uri,
        /// What the TLS library says.
        #[source]
        source: Box<kube::Error>,
    },
}

/// Makes a client from what `source` says. Nothing is sent yet: the first request connects.
///
/// Requests have no read timeout, because watches and logs stay open for long.
///
/// # Errors
/// A file that is missing or malformed.
pub async fn connect(source: &Source) -> Result<Client, ConnectError> {
    let config = match source {
        Source::Kubeconfig(path) => kubeconfig(path).await?,
        Source::Files(credentials) => files(credentials).await?,
    };
    let server = config.cluster_url.clone();
    Client::try_from(config).map_err(|source| ConnectError::Tls { server, source: Box::new(source) })
}

/// Makes a client over a service in this process, without a socket. The caller puts the identity of the
/// component on the requests before it hands the service over.
pub fn in_process<S, B>(service: S) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Client::new(service, "default")
}

async fn kubeconfig(path: &PathBuf) -> Result<Config, ConnectError> {
    let refused = |source| ConnectError::Kubeconfig { path: path.clone(), source: Box::new(source) };
    let kubeconfig = Kubeconfig::read_from(path).map_err(refused)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(refused)
}

async fn files(credentials: &Credentials) -> Result<Config, ConnectError> {
    let text = |path: &PathBuf| Some(path.to_string_lossy().into_owned());
    let name = String::from("catamaran");
    let kubeconfig = Kubeconfig {
        clusters: vec![NamedCluster {
            name: name.clone(),
            cluster: Some(Cluster {
                server: Some(credentials.server.to_string()),
                certificate_authority: text(&credentials.ca),
                ..Cluster::default()
            }),
            other: BTreeMap::new(),
        }],
        auth_infos: vec![NamedAuthInfo {
            name: name.clone(),
            auth_info: Some(AuthInfo {
                client_certificate: text(&credentials.certificate),
                client_key: text(&credentials.key),
                ..AuthInfo::default()
            }),
            other: BTreeMap::new(),
        }],
        contexts: vec![NamedContext {
            name: name.clone(),
            context: Some(Context { cluster: name.clone(), user: Some(name.clone()), ..Context::default() }),
            other: BTreeMap::new(),
        }],
        current_context: Some(name),
        ..Kubeconfig::default()
    };
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(|source| {
        ConnectError::Files { server: credentials.server.clone(), source: Box::new(source) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named_in_the_error() {
        let source = Source::Kubeconfig(PathBuf::from("/nowhere/kubeconfig"));
        let error = connect(&source).await.err().expect("there is no such file");
        assert_eq!(error.to_string(), "cannot use the kubeconfig /nowhere/kubeconfig");
    }

    #[tokio::test]
    async fn a_missing_authority_is_an_error_of_the_files() {
        let missing = PathBuf::from("/nowhere/ca.crt");
        let source = Source::Files(Credentials {
            server: Uri::from_static("https://127.0.0.1:1"),
            ca: missing.clone(),
            certificate: missing.clone(),
            key: missing,
        });
        let error = connect(&source).await.err().expect("there is no such file");
        assert!(matches!(error, ConnectError::Files { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_service_in_process_answers() {
        let service = tower::service_fn(|request: Request<Body>| async move {
            Ok::<_, BoxError>(Response::new(Body::from(request.uri().path().as_bytes().to_vec())))
        });
        let client = in_process(service);
        let request = Request::get("/version").body(vec![]).unwrap();
        assert_eq!(client.request_text(request).await.unwrap(), "/version");
    }
}
