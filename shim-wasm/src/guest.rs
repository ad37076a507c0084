//! What a store holds for one instance, and how it is made from what the container was given.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use catamaran_task::cri_log::LogStream;
use wasmtime::component::ResourceTable;
use wasmtime::{Engine, Store};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::cpu::CpuMeter;
use crate::memory::{MemoryAccount, MemoryLimiter};
use crate::net::GuestNetwork;
use crate::net::client::{HttpHooks, Outgoing};
use crate::output::ContainerOutput;
use crate::stdin::GuestInput;

/// Most that one host call may copy out of a guest, bytes.
const HOSTCALL_FUEL: usize = 32 << 20;
/// Resources (files, sockets, streams) an instance may hold.
const MAX_RESOURCES: usize = 10_000;
/// Size of a set of headers.
const MAX_FIELDS: usize = 64 << 10;
/// Random bytes per call.
const MAX_RANDOM: u64 = 1 << 20;

/// A directory of the node that a guest sees.
#[derive(Clone, Debug)]
pub(crate) struct Preopen {
    /// Its path, for messages.
    pub(crate) host: PathBuf,
    /// The directory itself, opened once: a path could lead elsewhere by the time that an instance opens it.
    pub(crate) dir: Arc<OwnedFd>,
    pub(crate) guest: String,
    pub(crate) perms: Access,
}

/// What may be done below a preopened directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    ReadOnly,
    ReadWrite,
}

/// What every instance of a container is made from.
pub(crate) struct GuestTemplate {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) cwd: String,
    pub(crate) preopens: Vec<Preopen>,
    pub(crate) memory: Arc<MemoryAccount>,
    pub(crate) cpu: Arc<CpuMeter>,
    pub(crate) output: Arc<ContainerOutput>,
    pub(crate) input: GuestInput,
    pub(crate) network: Arc<GuestNetwork>,
    pub(crate) outgoing: Arc<Outgoing>,
}

/// The data of a component's store.
pub(crate) struct Guest {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: HttpHooks,
    limiter: MemoryLimiter,
    pub(crate) network: Arc<GuestNetwork>,
}

/// The data of a WASI p1 module's store.
pub(crate) struct ModuleGuest {
    pub(crate) wasi: WasiP1Ctx,
    limiter: MemoryLimiter,
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

impl GuestTemplate {
    /// A store for a new instance of a component.
    pub(crate) fn store(&self, engine: &Engine) -> wasmtime::Result<Store<Guest>> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_FIELDS);
        let guest = Guest {
            table,
            wasi: self.wasi()?.build(),
            http,
            hooks: HttpHooks(Arc::clone(&self.outgoing)),
            limiter: MemoryLimiter::new(&self.memory),
            network: Arc::clone(&self.network),
        };
        let mut store = Store::new(engine, guest);
        store.limiter(|guest| &mut guest.limiter);
        store.set_hostcall_fuel(HOSTCALL_FUEL);
        store.set_max_component_handles(MAX_RESOURCES);
        yield_on_ticks(&mut store);
        Ok(store)
    }

    /// A store for a WASI p1 module.
    pub(crate) fn module_store(&self, engine: &Engine) -> wasmtime::Result<Store<ModuleGuest>> {
        let guest = ModuleGuest { wasi: self.wasi()?.build_p1(), limiter: MemoryLimiter::new(&self.memory) };
        let mut store = Store::new(engine, guest);
        store.limiter(|guest| &mut guest.limiter);
        yield_on_ticks(&mut store);
        Ok(store)
    }

    /// Nothing beyond clocks and random numbers unless it is in the template.
    fn wasi(&self) -> wasmtime::Result<WasiCtxBuilder> {
        let mut wasi = WasiCtxBuilder::new();
        wasi.args(&self.args)
            .envs(&self.env)
            .initial_cwd(&self.cwd)
            .max_random_size(MAX_RANDOM)
            .stdin(self.input.clone())
            .stdout(self.output.stream(LogStream::Stdout))
            .stderr(self.output.stream(LogStream::Stderr))
            .allow_tcp(true)
            .allow_udp(true)
            .allow_ip_name_lookup(self.network.policy.may_look_up());
        for preopen in &self.preopens {
            let perms = match preopen.perms {
                Access::ReadOnly => FsPerms::ReadOnly,
                Access::ReadWrite => FsPerms::ReadWrite,
            };
            let dir = format!("/proc/self/fd/{}", preopen.dir.as_raw_fd());
            wasi.preopened_dir(dir, &preopen.guest, perms).map_err(|e| {
                e.context(format!("open the volume {} for the guest", preopen.host.display()))
            })?;
        }
        let network = Arc::clone(&self.network);
        wasi.socket_addr_check(move |address, purpose| {
            let allowed = match purpose {
                SocketAddrUse::TcpBind | SocketAddrUse::TcpListen | SocketAddrUse::UdpBind => {
                    network.policy.may_bind(address.ip())
                }
                SocketAddrUse::TcpConnect | SocketAddrUse::UdpSend => network.policy.may_reach(address.ip()),
                SocketAddrUse::TcpAccept | SocketAddrUse::UdpReceive => true,
            };
            Box::pin(std::future::ready(allowed))
        });
        Ok(wasi)
    }
}

/// A guest that runs for a tick lets others run.
fn yield_on_ticks<T>(store: &mut Store<T>) {
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);
}
