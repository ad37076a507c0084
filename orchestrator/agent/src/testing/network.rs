//! A network that gives addresses and makes nothing.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Mutex;

use async_trait::async_trait;

use crate::net::{Attachment, HostPort, NetworkError, PodNetwork};

/// See the module. Remembers who is attached.
#[derive(Default)]
pub(crate) struct FakeNetwork {
    pub(crate) attached: Mutex<HashSet<String>>,
    pub(crate) published: Mutex<Vec<(String, Vec<HostPort>)>>,
}

#[async_trait]
impl PodNetwork for FakeNetwork {
    async fn attach_container_pod(&self, uid: &str) -> Result<Attachment, NetworkError> {
        self.attached.lock().unwrap().insert(uid.to_owned());
        Ok(Attachment { ip: Ipv4Addr::new(10, 128, 0, 9), netns: "/proc/self/ns/net".into() })
    }

    async fn attach_wasm_pod(&self, uid: &str, _: &str) -> Result<Attachment, NetworkError> {
        self.attach_container_pod(uid).await
    }

    async fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        self.attached.lock().unwrap().remove(uid);
        Ok(())
    }

    async fn publish(&self, uid: &str, ports: Vec<HostPort>) -> Result<(), NetworkError> {
        self.published.lock().unwrap().push((uid.to_owned(), ports));
        Ok(())
    }

    async fn listen(&self, _: &Path, _: SocketAddr) -> Result<TcpListener, NetworkError> {
        TcpListener::bind("127.0.0.1:0")
            .map_err(|error| NetworkError { step: "listen", source: Box::new(error) })
    }

    async fn drained(&self, _: Ipv4Addr) {}

    async fn collect(&self, live: &HashSet<String>) -> Result<(), NetworkError> {
        self.attached.lock().unwrap().retain(|uid| live.contains(uid));
        Ok(())
    }
}
