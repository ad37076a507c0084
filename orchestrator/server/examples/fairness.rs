//! Measures what priority and fairness costs a request that finds a seat: the same request from users whose schemas
//! are the first, in the middle and the last of the list, on one thread and on all. The processor's time is what counts:
//! it is the same on a machine that is busy with other things, and grows when threads wait for each other's cache lines.
//!
//! `cargo run --release -p catamaran-server --example fairness -- [REQUESTS]`

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use catamaran_server::{Server, ServerConfig, UserInfo};
use catamaran_store::MemoryStore;
use http::Request;
use http_body_util::Empty;
use tower::Service;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let requests: u32 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(200_000);
    let dir = tempfile::tempdir()?;
    let server = Server::new(ServerConfig::new(dir.path()), Arc::new(MemoryStore::new()))?;
    server.bootstrap().await?;
    let users = [
        ("exempt", UserInfo::new("admin", &["system:masters"])),
        ("system-nodes", UserInfo::new("system:node:n", &["system:nodes"])),
        ("global-default", UserInfo::new("jane", &[])),
    ];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for tasks in [1, threads] {
        for (schema, user) in &users {
            let one = time(&server, user, requests, tasks).await?;
            println!("{tasks} at a time, schema {schema}: {one:?} of a processor a request");
        }
    }
    Ok(())
}

async fn time(server: &Server, user: &UserInfo, requests: u32, tasks: usize) -> Result<Duration, Failure> {
    let began = processor_time();
    let running: Vec<_> =
        (0..tasks).map(|_| tokio::spawn(ask(server.clone(), user.clone(), requests))).collect();
    for task in running {
        task.await??;
    }
    let spent = processor_time().saturating_sub(began);
    Ok(spent / requests / u32::try_from(tasks)?)
}

/// The time of all processors that this process has used.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// A path that needs no rights, so that classification and seat are what differs.
async fn ask(server: Server, user: UserInfo, requests: u32) -> Result<(), Failure> {
    let mut service = server.service(user);
    for _ in 0..requests {
        let answer = service.call(Request::get("/version").body(Empty::<Bytes>::new())?).await?;
        if answer.status() != 200 {
            return Err(format!("answered {}", answer.status()).into());
        }
    }
    Ok(())
}
