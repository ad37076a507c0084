//! Socket functions of WASI that are defined over wasmtime's own, so that a guest in a shared host
//! has its pod's address and resolver: binds to wildcard and loopback, connections and look-ups.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;

use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::p2::bindings::sockets::network::{
    ErrorCode, Host as _, IpAddress, IpSocketAddress, Network,
};
use wasmtime_wasi::p2::bindings::sockets::tcp::{HostTcpSocket, TcpSocket};
use wasmtime_wasi::p2::bindings::sockets::udp::{
    HostUdpSocket, IncomingDatagramStream, OutgoingDatagramStream, UdpSocket,
};
use wasmtime_wasi::p2::{DynPollable, Pollable, SocketResult, subscribe};
use wasmtime_wasi::sockets::{WasiSocketsCtxView, WasiSocketsView};

use super::resolver::LookupError;
use crate::guest::Guest;

/// The version that wasmtime's linker defines; imports of older 0.2 versions resolve to it.
const VERSION: &str = "0.2.12";

/// Redefines the functions in `linker`, which has all of WASI 0.2 already.
pub(crate) fn p2(linker: &mut Linker<Guest>) -> Result<()> {
    linker.allow_shadowing(true);
    tcp(linker)?;
    udp(linker)?;
    names(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Splits what a socket function gives into the guest's result and a trap.
fn lower<T>(
    view: &mut WasiSocketsCtxView<'_>,
    result: SocketResult<T>,
) -> Result<(std::result::Result<T, ErrorCode>,)> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(e) => Err(view.convert_error_code(e)?),
    },))
}

type Args<S, A> = (Resource<S>, Resource<Network>, A);

fn tcp(linker: &mut Linker<Guest>) -> Result<()> {
    let mut instance = linker.instance(&format!("wasi:sockets/tcp@{VERSION}"))?;
    instance.func_wrap_async(
        "[method]tcp-socket.start-bind",
        |mut store: StoreContextMut<'_, Guest>,
         (socket, network, address): Args<TcpSocket, IpSocketAddress>| {
            Box::new(async move {
                let guest = store.data_mut();
                let address = guest.network.policy.local(address.into());
                let mut view = guest.sockets();
                let done = HostTcpSocket::start_bind(&mut view, socket, network, address.into()).await;
                lower(&mut view, done)
            })
        },
    )?;
    instance.func_wrap_async(
        "[method]tcp-socket.start-connect",
        |mut store: StoreContextMut<'_, Guest>,
         (socket, network, address): Args<TcpSocket, IpSocketAddress>| {
            Box::new(async move {
                let guest = store.data_mut();
                let policy = Arc::clone(&guest.network);
                let mut view = guest.sockets();
                let done = start_connect(&mut view, &policy, socket, network, address.into()).await;
                lower(&mut view, done)
            })
        },
    )
}

/// A connection comes from the pod's address, also where the guest bound none.
async fn start_connect(
    view: &mut WasiSocketsCtxView<'_>,
    network: &super::GuestNetwork,
    socket: Resource<TcpSocket>,
    capability: Resource<Network>,
    address: SocketAddr,
) -> SocketResult<()> {
    let rep = socket.rep();
    let again = || Resource::<TcpSocket>::new_borrow(rep);
    if let Some(source) = network.source()
        && HostTcpSocket::local_address(view, again()).is_err()
        && address.is_ipv4()
    {
        let any_port = SocketAddr::from((source, 0));
        HostTcpSocket::start_bind(view, again(), Resource::new_borrow(capability.rep()), any_port.into())
            .await?;
        HostTcpSocket::finish_bind(view, again())?;
    }
    view.start_connect(socket, capability, network.policy.remote(address).into())
}

type Datagrams = (Resource<IncomingDatagramStream>, Resource<OutgoingDatagramStream>);

fn udp(linker: &mut Linker<Guest>) -> Result<()> {
    let mut instance = linker.instance(&format!("wasi:sockets/udp@{VERSION}"))?;
    instance.func_wrap_async(
        "[method]udp-socket.start-bind",
        |mut store: StoreContextMut<'_, Guest>,
         (socket, network, address): Args<UdpSocket, IpSocketAddress>| {
            Box::new(async move {
                let guest = store.data_mut();
                let address = guest.network.policy.local(address.into());
                let mut view = guest.sockets();
                let done = HostUdpSocket::start_bind(&mut view, socket, network, address.into()).await;
                lower(&mut view, done)
            })
        },
    )?;
    instance.func_wrap_async(
        "[method]udp-socket.stream",
        |mut store: StoreContextMut<'_, Guest>,
         (socket, remote): (Resource<UdpSocket>, Option<IpSocketAddress>)| {
            Box::new(async move {
                let guest = store.data_mut();
                let remote = remote.map(|address| guest.network.policy.remote(address.into()).into());
                let mut view = guest.sockets();
                let done: SocketResult<Datagrams> = view.stream(socket, remote).await;
                lower(&mut view, done)
            })
        },
    )
}

type Found = std::result::Result<std::vec::IntoIter<IpAddress>, ErrorCode>;

/// A running look-up: `wasi:sockets/ip-name-lookup.resolve-address-stream`.
struct Lookup {
    task: tokio::task::JoinHandle<Found>,
    found: Option<Found>,
}

impl Lookup {
    fn poll_found(&mut self, cx: &mut std::task::Context<'_>) -> Poll<&mut Found> {
        if self.found.is_none() {
            use std::future::Future;
            let joined = std::task::ready!(std::pin::Pin::new(&mut self.task).poll(cx));
            self.found = Some(joined.unwrap_or(Err(ErrorCode::Unknown)));
        }
        Poll::Ready(self.found.as_mut().expect("set above"))
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[async_trait::async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.poll_found(cx).map(drop)).await;
    }
}

fn lookup_code(error: &LookupError) -> ErrorCode {
    match error {
        LookupError::Invalid(_) => ErrorCode::InvalidArgument,
        LookupError::NoSuchName(_) => ErrorCode::NameUnresolvable,
        LookupError::NoServers => ErrorCode::PermanentResolverFailure,
        LookupError::Failed { .. } | LookupError::NoAnswer { .. } => ErrorCode::TemporaryResolverFailure,
    }
}

fn begin(guest: &mut Guest, name: String) -> Result<std::result::Result<Resource<Lookup>, ErrorCode>> {
    if !guest.network.policy.may_look_up() {
        return Ok(Err(ErrorCode::PermanentResolverFailure));
    }
    let network = Arc::clone(&guest.network);
    let task = tokio::spawn(async move {
        let found = network.lookup(&name).await.map_err(|e| lookup_code(&e))?;
        Ok(found.into_iter().map(IpAddress::from).collect::<Vec<_>>().into_iter())
    });
    Ok(Ok(guest.sockets().table.push(Lookup { task, found: None })?))
}

fn names(linker: &mut Linker<Guest>) -> Result<()> {
    let mut instance = linker.instance(&format!("wasi:sockets/ip-name-lookup@{VERSION}"))?;
    instance.resource("resolve-address-stream", ResourceType::host::<Lookup>(), |mut store, rep| {
        store.data_mut().sockets().table.delete(Resource::<Lookup>::new_own(rep))?;
        Ok(())
    })?;
    instance.func_wrap(
        "resolve-addresses",
        |mut store: StoreContextMut<'_, Guest>, (_network, name): (Resource<Network>, String)| {
            Ok((begin(store.data_mut(), name)?,))
        },
    )?;
    instance.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store: StoreContextMut<'_, Guest>, (stream,): (Resource<Lookup>,)| {
            let view = store.data_mut().sockets();
            let lookup = view.table.get_mut(&stream)?;
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            let next: std::result::Result<Option<IpAddress>, ErrorCode> = match lookup.poll_found(&mut cx) {
                Poll::Pending => Err(ErrorCode::WouldBlock),
                Poll::Ready(Ok(addresses)) => Ok(addresses.next()),
                Poll::Ready(Err(code)) => Err(*code),
            };
            Ok((next,))
        },
    )?;
    instance.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store: StoreContextMut<'_, Guest>, (stream,): (Resource<Lookup>,)| {
            let pollable: Resource<DynPollable> = subscribe(store.data_mut().sockets().table, stream)?;
            Ok((pollable,))
        },
    )
}
