//! The server as a value: a tower service for clients in the same process, and sockets for all others.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use jiff::Timestamp;
use tower::Service;

use catamaran_store::Store;

use crate::authenticate::UserInfo;
use crate::body::{self, Body, BoxError};
use crate::certificates::{IssueError, Order};
use crate::core::{Core, ServerConfig, ServerError};
use crate::imageregistry::{ImageRegistryConfig, run_image_registry};
use crate::pki::{Credentials, Pki, Subject};
use crate::serve::{self, Handler, Listeners, ServeError};
use crate::token::{LEGACY_ISSUER, Legacy};
use crate::{bootstrap, custom, dispatch, expire, flow, identity};

/// The API server. Cheap to clone.
#[derive(Clone)]
pub struct Server(Arc<Core>);

impl Server {
    /// Opens keys and certificates below the data directory and serves from `store`.
    ///
    /// # Errors
    /// When keys or certificates are unusable.
    pub fn new(config: ServerConfig, store: Arc<dyn Store>) -> Result<Self, ServerError> {
        Ok(Server(Arc::new(Core::new(config, store)?)))
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0
    }

    /// Creates the objects that every cluster has, where they are missing. Call it before anything else asks.
    ///
    /// # Errors
    /// When one of them is refused.
    pub async fn bootstrap(&self) -> Result<(), ServerError> {
        bootstrap::run(self).await?;
        custom::start(&self.0);
        Ok(())
    }

    /// The API for a client in this process who is `user`; requests may carry another [`UserInfo`] in their
    /// extensions. Fits `kube::Client::new(service, "default")`.
    pub fn service(&self, user: UserInfo) -> InProcess {
        InProcess { server: self.clone(), user }
    }

    /// The certificate authority, PEM: what goes into `kube-root-ca.crt`.
    pub fn ca_pem(&self) -> String {
        self.pki(|pki| pki.ca_pem().to_owned())
    }

    /// A certificate for a client, node or server, kept as `FILE.crt` and `FILE.key` under `dir`.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn credentials(
        &self,
        dir: &std::path::Path,
        file: &str,
        subject: &Subject,
    ) -> Result<Credentials, ServerError> {
        Ok(self.pki(|pki| pki.credentials_in(dir, file, subject))?)
    }

    /// A certificate for somebody's request, PEM, from the cluster's authority. Whether he may have it is decided
    /// before, by who approved the request.
    ///
    /// # Errors
    /// When the request or a usage is not usable.
    pub fn sign(&self, order: &Order<'_>) -> Result<String, IssueError> {
        self.pki(|pki| pki.sign(order, Timestamp::now()))
    }

    /// A token without an end for a Secret of a service account; it is good as long as the Secret has it.
    ///
    /// # Errors
    /// When signing fails.
    pub fn legacy_token(
        &self,
        namespace: &str,
        (account, uid): (&str, &str),
        secret: &str,
    ) -> Result<String, ServerError> {
        let claims = Legacy {
            iss: LEGACY_ISSUER.to_owned(),
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            account: account.to_owned(),
            uid: uid.to_owned(),
            sub: format!("system:serviceaccount:{namespace}:{account}"),
        };
        Ok(self.0.tokens.sign_legacy(&claims)?)
    }

    /// The administrator's kubeconfig for the API at `url`.
    ///
    /// # Errors
    /// When the certificate cannot be issued.
    pub fn admin_kubeconfig(&self, url: &str) -> Result<String, ServerError> {
        self.pki(|pki| {
            let subject = Subject::client("kubernetes-admin", Some("system:masters"));
            let credentials = pki.credentials("admin", &subject)?;
            Ok(pki.kubeconfig(url, "kubernetes-admin", &credentials))
        })
    }

    fn pki<T>(&self, work: impl FnOnce(&Pki) -> T) -> T {
        work(&self.0.pki.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Serves the API on every configured address until `stop` resolves; running watches then end.
    ///
    /// # Errors
    /// When an address or the certificate cannot be used.
    pub async fn serve(&self, stop: impl Future<Output = ()>) -> Result<(), ServerError> {
        let subject = self.0.config.subject();
        let (own, ca) =
            self.pki(|pki| Ok::<_, ServerError>((pki.credentials("server", &subject)?, pki.ca_der()?)))?;
        let broken = crate::pki::PkiError::Broken { path: "server.crt".into(), what: "certificate" };
        let (certificate, key) = own.certificate_der().zip(own.key_der()).ok_or(broken)?;
        let tls = serve::tls(certificate, key, ca)?;
        let mut listeners = Listeners::new(self.clone());
        for listen in &self.0.config.listen {
            listeners.add(listen.open()?, Some(tls.clone()));
            tracing::info!(address = %listen.address, "the API listens");
        }
        stop.await;
        self.0.stopping.send_replace(true);
        listeners.stop().await;
        if let Some(audit) = &self.0.audit {
            audit.flush().await;
        }
        Ok::<_, ServeError>(()).map_err(ServerError::from)
    }
}

impl Handler for Server {
    async fn handle(&self, request: Request<Body>) -> Response<Body> {
        dispatch::answer(&self.0, request).await
    }
}

/// The API without a socket.
#[derive(Clone)]
pub struct InProcess {
    server: Server,
    user: UserInfo,
}

impl<B> Service<Request<B>> for InProcess
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.server.clone();
        let mut request = request.map(body::boxed);
        if request.extensions().get::<UserInfo>().is_none() {
            request.extensions_mut().insert(self.user.clone());
        }
        Box::pin(async move { Ok(dispatch::answer(&server.0, request).await) })
    }
}

/// Serves API and image registry until `stop` becomes true.
///
/// `server` is made by [`Server::new`]; whoever needs the API in process takes [`Server::service`] from it first.
///
/// # Errors
/// When an address, a certificate or a start-up object makes trouble.
///
/// Boxed here: the future is then compiled in this crate, and not once more in the binary that awaits it.
pub fn run(
    server: Server,
    stop: tokio::sync::watch::Receiver<bool>,
) -> BoxFuture<'static, Result<(), ServerError>> {
    Box::pin(run_all(server, stop))
}

async fn run_all(server: Server, mut stop: tokio::sync::watch::Receiver<bool>) -> Result<(), ServerError> {
    server.bootstrap().await?;
    let mut registry_stop = stop.clone();
    let images = async {
        let config = &server.0.config;
        if config.registry_listen.is_empty() {
            return Ok(());
        }
        let images = ImageRegistryConfig {
            data_dir: config.data_dir.join("registry"),
            listen: config.registry_listen.clone(),
        };
        let stopped = async { stopped(&mut registry_stop).await };
        run_image_registry(images, stopped).await.map_err(ServerError::from)
    };
    let api = server.serve(async { stopped(&mut stop).await });
    let serving = async { tokio::try_join!(api, images).map(drop) };
    let rotating = rotate(&server.0);
    tokio::select! {
        ended = serving => ended,
        () = expire::run(&*server.0.store) => Ok(()),
        () = identity::run(&server.0) => Ok(()),
        () = flow::lend(&server.0.flow) => Ok(()),
        () = rotating => Ok(()),
    }
}

/// Encrypts with today's key what is not; then waits for ever.
async fn rotate(core: &Core) {
    if let Some(encrypted) = &core.encrypted {
        match encrypted.rotate().await {
            Ok(0) => {}
            Ok(objects) => tracing::info!(objects, "objects were encrypted anew"),
            Err(error) => {
                let error = crate::error::chain(&error);
                tracing::error!(
                    error,
                    "not all objects could be encrypted anew; older keys are still needed"
                );
            }
        }
    }
    std::future::pending().await
}

/// Resolves when told to stop, or when nobody can tell any more.
async fn stopped(stop: &mut tokio::sync::watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        ready(()).await;
    }
}
