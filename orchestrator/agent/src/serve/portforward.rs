//! `/portForward/NAMESPACE/POD`: connections to ports of a pod, in three forms.
//!
//! | form | who speaks it |
//! | --- | --- |
//! | SPDY/3.1 with a pair of streams for each connection (`pairs`) | `kubectl` before 1.31 |
//! | the same inside of WebSocket messages (`tunnel`, KEP-4006) | `kubectl` |
//! | numbered WebSocket channels for the ports of the query (`numbered`) | other client libraries |

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::channels::Version;
use super::handshake::{self, Transport};
use super::{Refusal, find_pod};
use crate::context::Context;
use crate::members::uid;
use crate::record::Sandbox;
use crate::runtime::Place;

mod numbered;
mod pairs;
mod tunnel;

/// How long a port may take to answer.
const DIAL: Duration = Duration::from_secs(10);
/// The protocol inside of SPDY.
const SPDY_PROTOCOL: [(&str, ()); 1] = [("portforward.k8s.io", ())];
/// SPDY inside of WebSocket.
const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";

/// The pod whose ports are meant.
#[derive(Clone, Debug)]
struct Target {
    pod: String,
    uid: String,
    sandbox: Sandbox,
}

/// What a WebSocket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Tunnel,
    Numbered,
}

pub(super) async fn serve(
    State(context): State<Arc<Context>>,
    Path((namespace, pod_name)): Path<(String, String)>,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Result<Response, Refusal> {
    let (pod, record) = find_pod(&context, &namespace, &pod_name)
        .map_err(|_| Refusal(StatusCode::NOT_FOUND, "pod does not exist".into()))?;
    let not_running =
        || Refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("sandbox of pod {pod_name:?} is not running"));
    let sandbox = record.sandbox.filter(|_| !record.released).ok_or_else(not_running)?;
    let target = Target { pod: pod_name, uid: uid(&pod).to_owned(), sandbox };
    if handshake::transport(request.headers())? == Transport::Spdy {
        let switch = handshake::spdy(request, &SPDY_PROTOCOL)?;
        return Ok(switch.run_spdy(|(), connection| pairs::serve(target, connection)));
    }
    let switch = handshake::websocket(request, choose)?;
    match switch.chosen {
        Form::Tunnel => {
            Ok(switch.run_websocket(|_, socket| pairs::serve(target, tunnel::connection(socket))))
        }
        Form::Numbered => {
            let ports = numbered::ports(&query)?;
            Ok(switch.run_websocket(|_, socket| numbered::forward(target, ports, socket)))
        }
    }
}

/// The form that the client offers; the tunnel rather than numbered channels.
fn choose(offered: &[String]) -> Option<(&'static str, Form)> {
    if offered.iter().any(|offer| offer == TUNNEL_PROTOCOL) {
        return Some((TUNNEL_PROTOCOL, Form::Tunnel));
    }
    Version::choose(offered, &Version::ONLY_V4).map(|(name, _)| (name, Form::Numbered))
}

impl Target {
    /// Connects to a port: of the pod's loopback address, as a program in the pod would, else of its own.
    ///
    /// # Errors
    /// In the kubelet's words.
    async fn dial(&self, port: u16) -> Result<TcpStream, String> {
        let dialled = timeout(2 * DIAL, self.sandbox.dial(port)).await;
        let dialled = dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        dialled.map_err(|error| {
            let Target { pod, uid, .. } = self;
            format!(
                "error forwarding port {port} to pod {pod}, uid {uid}: failed to connect to port {port} of the pod: {error}"
            )
        })
    }
}

impl Sandbox {
    async fn dial(&self, port: u16) -> io::Result<TcpStream> {
        let own = SocketAddr::from((self.ip, port));
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match (&self.place, &self.netns) {
            (Place::Own, Some(netns)) => dial_in(netns.clone(), [loopback, own]).await,
            (Place::Host, _) => match TcpStream::connect(loopback).await {
                Ok(stream) => Ok(stream),
                Err(_) => TcpStream::connect(own).await,
            },
            // The loopback of a wasm pod in a shared host is its address.
            _ => TcpStream::connect(own).await,
        }
    }
}

/// Connects from inside a network namespace to the first of the addresses that answers.
async fn dial_in(netns: std::path::PathBuf, addresses: [SocketAddr; 2]) -> io::Result<TcpStream> {
    // A thread of its own: it stays in the pod's namespace until it ends.
    let (to, from) = oneshot::channel::<io::Result<std::net::TcpStream>>();
    std::thread::Builder::new().name("port-forward".into()).spawn(move || {
        let connect = || {
            let netns = std::fs::File::open(netns)?;
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
            let [first, second] = addresses;
            let stream = std::net::TcpStream::connect_timeout(&first, DIAL);
            let stream = stream.or_else(|_| std::net::TcpStream::connect_timeout(&second, DIAL))?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        // The client may have gone meanwhile.
        let _ = to.send(connect());
    })?;
    TcpStream::from_std(from.await.map_err(io::Error::other)??)
}

#[cfg(test)]
mod tests;
