//! Listening sockets of HTTP components. The agent makes them, the wasm host serves them, and each keeps a copy:
//! while a host is replaced, connections wait in the backlog instead of being refused.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use catamaran_task::spec::ContainerId;

use crate::net::{NetworkError, PodNetwork};
use crate::shims::{Shim, ShimError};

/// Copies of all listeners, by pod UID and port.
#[derive(Default)]
pub(crate) struct Listeners {
    held: Mutex<HashMap<(String, u16), OwnedFd>>,
}

/// A port that could not be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("port {port} of the pod cannot be listened on")]
    Listen {
        port: u16,
        #[source]
        source: NetworkError,
    },
    #[error("the listener of port {port} cannot be copied")]
    Copy {
        port: u16,
        #[source]
        source: std::io::Error,
    },
    #[error("the wasm host did not take the listener of port {port}")]
    HandOver {
        port: u16,
        #[source]
        source: ShimError,
    },
}

/// Whose ports, and where.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) uid: &'a str,
    pub(crate) ip: Ipv4Addr,
    pub(crate) netns: &'a Path,
}

// === impl Listeners ===

impl Listeners {
    /// Gives the container's host a listener for each port: the one we hold, else the one it held for us while we
    /// were away, else a new one.
    pub(crate) async fn hand_over(
        &self,
        network: &dyn PodNetwork,
        shim: &Shim,
        site: Site<'_>,
        id: &ContainerId,
        ports: &[u16],
    ) -> Result<(), ListenError> {
        for &port in ports {
            let token = token(site.uid, port);
            let listener =
                match self.copy(site.uid, port).map_err(|source| ListenError::Copy { port, source })? {
                    Some(held) => held,
                    None => {
                        let listener = match shim.take_back(&token).await {
                            Ok(theirs) => theirs,
                            Err(_) => self.listen(network, site, port).await?,
                        };
                        let copy =
                            listener.try_clone().map_err(|source| ListenError::Copy { port, source })?;
                        self.lock().insert((site.uid.to_owned(), port), copy);
                        listener
                    }
                };
            let refused = |source| ListenError::HandOver { port, source };
            shim.hand_over(&token, listener.as_fd()).await.map_err(refused)?;
            shim.adopt_listener(id, port, &token).await.map_err(refused)?;
        }
        Ok(())
    }

    /// After a restart of the agent: takes copies of what the host of a running container holds.
    pub(crate) async fn take_back(&self, shim: &Shim, uid: &str, ports: &[u16]) {
        for &port in ports {
            let have = self.lock().contains_key(&(uid.to_owned(), port));
            if !have && let Ok(listener) = shim.take_back(&token(uid, port)).await {
                self.lock().insert((uid.to_owned(), port), listener);
            }
        }
    }

    /// Lets the listeners of a pod go: connections are refused from here on.
    pub(crate) fn release(&self, uid: &str) {
        self.lock().retain(|(owner, _), _| owner != uid);
    }

    async fn listen(
        &self,
        network: &dyn PodNetwork,
        site: Site<'_>,
        port: u16,
    ) -> Result<OwnedFd, ListenError> {
        let address = SocketAddr::from((site.ip, port));
        let listener: TcpListener = network
            .listen(site.netns, address)
            .await
            .map_err(|source| ListenError::Listen { port, source })?;
        Ok(listener.into())
    }

    fn copy(&self, uid: &str, port: u16) -> std::io::Result<Option<OwnedFd>> {
        self.lock().get(&(uid.to_owned(), port)).map(OwnedFd::try_clone).transpose()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, u16), OwnedFd>> {
        // A panic while holding it cannot leave the map half-changed.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn token(uid: &str, port: u16) -> String {
    format!("{uid}:{port}")
}
