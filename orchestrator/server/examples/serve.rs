//! A developer's tool: the API over a store in memory on loopback, without nodes. Prints a kubeconfig's path.
//!
//! `cargo run --release -p catamaran-server --example serve -- DIR [PORT]`

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use catamaran_server::{Binding, Listen, Server, ServerConfig, run};
use catamaran_store::MemoryStore;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or("usage: serve DIR [PORT]")?;
    let port: u16 = arguments.next().map_or(Ok(6443), |port| port.parse())?;
    let at =
        |port| Listen { address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), binding: Binding::Present };
    let mut config = ServerConfig::new(&dir);
    config.listen = vec![at(port)];
    config.registry_listen = vec![at(port + 1)];
    let server = Server::new(config, Arc::new(MemoryStore::new()))?;
    let kubeconfig = format!("{dir}/kubeconfig");
    let text = server.admin_kubeconfig(&format!("https://127.0.0.1:{port}"))?;
    catamaran_server::pki::write_private(kubeconfig.as_ref(), text.as_bytes())?;
    println!("export KUBECONFIG={kubeconfig}");
    let (stop, stopped) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.send_replace(true);
        }
    });
    run(server, stopped).await?;
    Ok(())
}
