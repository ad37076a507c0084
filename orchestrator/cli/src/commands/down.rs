//! `catamaran down`: stops pods, parts and shims and takes back everything that was made on this machine. It
//! relies on nothing that a process remembers, so it works after everything was killed, and twice.

use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::{DataDir, Outcome};
use crate::layout::{DATA_DIR, Layout};
use crate::progress::step;
use crate::supervise::process::Identity;
use crate::sweep;

/// Time that containers have after TERM.
const POD_WAIT: Duration = Duration::from_secs(5);
/// Time that parts have after TERM.
const PART_WAIT: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(crate) struct Down {
    #[command(flatten)]
    data: DataDir,
    /// Keep objects, images and logs for the next `up`
    #[arg(long)]
    keep_data: bool,
}

impl Down {
    pub(crate) async fn run(self) -> Outcome {
        if !rustix::process::geteuid().is_root() {
            return Err("this needs root rights: run it with sudo".into());
        }
        let layout = self.data.layout();
        step("stop server, agent, DNS", end_parts(&layout, |part| !part.starts_with("shim"))).await?;
        step("stop pods", end_pods(&layout)).await?;
        step("take back network, mounts, cgroups", take_back(&layout)).await?;
        step("remove files", async { remove_files(&layout, self.keep_data) }).await
    }
}

/// Ends the processes of some parts, the supervisor first: it would start the others again.
async fn end_parts(layout: &Layout, which: impl Fn(&str) -> bool) -> Outcome {
    let supervisor: Vec<_> = of(layout, |part| part == "supervisor" && which(part));
    sweep::end(&supervisor, PART_WAIT).await;
    sweep::end(&of(layout, which), PART_WAIT).await;
    Ok(())
}

fn of(layout: &Layout, which: impl Fn(&str) -> bool) -> Vec<Identity> {
    sweep::parts(layout).into_iter().filter(|(_, part)| which(part)).map(|(identity, _)| identity).collect()
}

/// Containers first, so that their shim still writes their last words, then the shims.
async fn end_pods(layout: &Layout) -> Outcome {
    sweep::end(&sweep::contained(), POD_WAIT).await;
    end_parts(layout, |part| part.starts_with("shim")).await?;
    // What was forked while the others were ended.
    sweep::end(&sweep::contained(), Duration::ZERO).await;
    Ok(())
}

async fn take_back(layout: &Layout) -> Outcome {
    catamaran_network::teardown_all(&layout.run).await?;
    sweep::unmount_below(&[&layout.data, &layout.run]);
    let left = sweep::remove_cgroups().await;
    if left.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = left.iter().map(|path| path.display().to_string()).collect();
    Err(format!("these cgroups are still in use: {}", names.join(", ")).into())
}

/// Removes what is not kept. A directory that `up` did not make stays, empty.
fn remove_files(layout: &Layout, keep: bool) -> Outcome {
    remove(&layout.run)?;
    // State of containers that are no more.
    for gone in ["agent/pods", "shim"] {
        remove(&layout.data.join(gone))?;
    }
    if keep {
        return Ok(());
    }
    remove(&layout.pod_logs())?;
    for made in ["kubeconfig", "cluster.json", "server", "agent", "images", "registry", "network", "log"] {
        remove(&layout.data.join(made))?;
    }
    if layout.data == Path::new(DATA_DIR) {
        // Not empty: somebody else's files lie there, and stay.
        let _ = std::fs::remove_dir(&layout.data);
    }
    Ok(())
}

fn remove(path: &Path) -> Outcome {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", path.display()).into())
        }
        _ => Ok(()),
    }
}
