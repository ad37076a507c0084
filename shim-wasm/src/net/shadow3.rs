//! The same as `shadow`, for WASI 0.3: `wasi:sockets/types` and `ip-name-lookup`.

use std::net::SocketAddr;
use std::sync::Arc;

use wasmtime::component::{Accessor, Linker, Resource};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::p3::bindings::sockets::ip_name_lookup;
use wasmtime_wasi::p3::bindings::sockets::types::{
    ErrorCode, Host as _, HostTcpSocket, HostTcpSocketWithStore as _, HostUdpSocket, HostUdpSocketWithStore,
    IpAddress, IpSocketAddress, TcpSocket, UdpSocket,
};
use wasmtime_wasi::p3::sockets::{SocketError, SocketResult};
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsView};

use super::resolver::LookupError;
use crate::guest::Guest;

const VERSION: &str = "0.3.0";

/// Redefines the functions in `linker`, which has all of WASI 0.3 already.
pub(crate) fn p3(linker: &mut Linker<Guest>) -> Result<()> {
    linker.allow_shadowing(true);
    tcp(linker)?;
    udp(linker)?;
    names(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

type Lowered<T> = (std::result::Result<T, ErrorCode>,);

fn lower<T>(guest: &mut Guest, result: SocketResult<T>) -> Result<Lowered<T>> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(e) => Err(guest.sockets().convert_error_code(e)?),
    },))
}

fn tcp(linker: &mut Linker<Guest>) -> Result<()> {
    let mut instance = linker.instance(&format!("wasi:sockets/types@{VERSION}"))?;
    instance.func_wrap_async(
        "[method]tcp-socket.bind",
        |mut store: StoreContextMut<'_, Guest>, (socket, address): (Resource<TcpSocket>, IpSocketAddress)| {
            Box::new(async move {
                let guest = store.data_mut();
                let address = guest.network.policy.local(address.into());
                let done = HostTcpSocket::bind(&mut guest.sockets(), socket, address.into()).await;
                lower(guest, done)
            })
        },
    )?;
    instance.func_wrap_concurrent(
        "[method]tcp-socket.connect",
        |accessor: &Accessor<Guest>, (socket, address): (Resource<TcpSocket>, IpSocketAddress)| {
            Box::pin(async move {
                let done = connect(accessor, socket, address.into()).await;
                accessor.with(|mut access| lower(access.get(), done))
            })
        },
    )
}

async fn connect(
    accessor: &Accessor<Guest>,
    socket: Resource<TcpSocket>,
    address: SocketAddr,
) -> SocketResult<()> {
    let rep = socket.rep();
    let again = || Resource::<TcpSocket>::new_borrow(rep);
    let address = accessor.with(|mut access| -> SocketResult<SocketAddr> {
        let guest = access.get();
        let network = Arc::clone(&guest.network);
        let mut view = guest.sockets();
        if let Some(source) = network.source()
            && HostTcpSocket::get_local_address(&mut view, again()).is_err()
            && address.is_ipv4()
        {
            let bind = HostTcpSocket::bind(&mut view, again(), SocketAddr::from((source, 0)).into());
            // Its only wait is for the address check, and ours is ready at once.
            futures::FutureExt::now_or_never(bind)
                .unwrap_or(Err(SocketError::from(ErrorCode::InvalidState)))?;
        }
        Ok(network.policy.remote(address))
    })?;
    let sockets = accessor.with_getter::<WasiSockets>(Guest::sockets);
    WasiSockets::connect(&sockets, socket, address.into()).await
}

fn udp(linker: &mut Linker<Guest>) -> Result<()> {
    let mut instance = linker.instance(&format!("wasi:sockets/types@{VERSION}"))?;
    instance.func_wrap_async(
        "[method]udp-socket.bind",
        |mut store: StoreContextMut<'_, Guest>, (socket, address): (Resource<UdpSocket>, IpSocketAddress)| {
            Box::new(async move {
                let guest = store.data_mut();
                let address = guest.network.policy.local(address.into());
                let done = HostUdpSocket::bind(&mut guest.sockets(), socket, address.into()).await;
                lower(guest, done)
            })
        },
    )?;
    instance.func_wrap_async(
        "[method]udp-socket.connect",
        |mut store: StoreContextMut<'_, Guest>, (socket, address): (Resource<UdpSocket>, IpSocketAddress)| {
            Box::new(async move {
                let guest = store.data_mut();
                let done = match bind_source(guest, &socket).await {
                    Ok(()) => {
                        let address = guest.network.policy.remote(address.into());
                        HostUdpSocket::connect(&mut guest.sockets(), socket, address.into()).await
                    }
                    Err(e) => Err(e),
                };
                lower(guest, done)
            })
        },
    )?;
    instance.func_wrap_concurrent(
        "[method]udp-socket.send",
        |accessor: &Accessor<Guest>,
         (socket, data, to): (Resource<UdpSocket>, Vec<u8>, Option<IpSocketAddress>)| {
            Box::pin(async move {
                let to = accessor.with(|mut access| -> SocketResult<Option<IpSocketAddress>> {
                    let guest = access.get();
                    let bind = bind_source(guest, &socket);
                    futures::FutureExt::now_or_never(bind)
                        .unwrap_or(Err(SocketError::from(ErrorCode::InvalidState)))?;
                    Ok(to.map(|to| guest.network.policy.remote(to.into()).into()))
                });
                let done = match to {
                    Ok(to) => {
                        let sockets = accessor.with_getter::<WasiSockets>(Guest::sockets);
                        <WasiSockets as HostUdpSocketWithStore<Guest>>::send(&sockets, socket, data, to).await
                    }
                    Err(e) => Err(e),
                };
                accessor.with(|mut access| lower(access.get(), done))
            })
        },
    )
}

/// Binds an unbound socket to the pod's address.
async fn bind_source(guest: &mut Guest, socket: &Resource<UdpSocket>) -> SocketResult<()> {
    let source = guest.network.source();
    let rep = socket.rep();
    let again = || Resource::<UdpSocket>::new_borrow(rep);
    let mut view = guest.sockets();
    if let Some(source) = source
        && HostUdpSocket::get_local_address(&mut view, again()).is_err()
    {
        HostUdpSocket::bind(&mut view, again(), SocketAddr::from((source, 0)).into()).await?;
    }
    Ok(())
}

fn names(linker: &mut Linker<Guest>) -> Result<()> {
    let mut instance = linker.instance(&format!("wasi:sockets/ip-name-lookup@{VERSION}"))?;
    instance.func_wrap_concurrent("resolve-addresses", |accessor: &Accessor<Guest>, (name,): (String,)| {
        Box::pin(async move {
            let network = accessor.with(|mut access| Arc::clone(&access.get().network));
            Ok((resolve(&network, &name).await,))
        })
    })
}

async fn resolve(
    network: &super::GuestNetwork,
    name: &str,
) -> std::result::Result<Vec<IpAddress>, ip_name_lookup::ErrorCode> {
    use ip_name_lookup::ErrorCode;
    if !network.policy.may_look_up() {
        return Err(ErrorCode::PermanentResolverFailure);
    }
    let found = network.lookup(name).await.map_err(|e| match e {
        LookupError::Invalid(_) => ErrorCode::InvalidArgument,
        LookupError::NoSuchName(_) => ErrorCode::NameUnresolvable,
        LookupError::NoServers => ErrorCode::PermanentResolverFailure,
        LookupError::Failed { .. } | LookupError::NoAnswer { .. } => ErrorCode::TemporaryResolverFailure,
    })?;
    Ok(found.into_iter().map(IpAddress::from).collect())
}
