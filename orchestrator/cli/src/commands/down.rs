//! `catamaran down`: stops pods, parts and shims and takes back everything that was made on this machine. It
//! relies on nothing that a process remembers, so it works after everything was killed, and twice.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::{DataDir, Outcome};
use crate::layout::Layout;
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
    sweep::end(&sweep::contained(layout), POD_WAIT).await;
    end_parts(layout, |part| part.starts_with("shim")).await?;
    // What was forked while the others were ended.
    sweep::end(&sweep::contained(layout), Duration::ZERO).await;
    Ok(())
}

async fn take_back(layout: &Layout) -> Outcome {
    match sweep::neighbour(layout) {
        None => drop(catamaran_network::teardown_all(&layout.run).await?),
        // Addresses, links and rules are its own: they have fixed names, and there is one cluster at a time.
        Some((_, data)) => {
            eprintln!("note: the network is that of the cluster in {}, and stays", data.display())
        }
    }
    sweep::unmount_below(&[&layout.data, &layout.run]);
    let left = sweep::remove_cgroups(layout).await;
    if left.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = left.iter().map(|path| path.display().to_string()).collect();
    Err(format!("these cgroups are still in use: {}", names.join(", ")).into())
}

/// Removes what is not kept. A directory that `up` did not make stays, empty.
fn remove_files(layout: &Layout, keep: bool) -> Outcome {
    remove(&layout.run)?;
    let pods = pods(layout);
    if keep {
        note(layout, &pods)?;
    } else {
        remove_logs(&layout.pod_logs(), &pods)?;
    }
    // State of containers that are no more.
    for gone in ["agent/pods", "shim"] {
        remove(&layout.data.join(gone))?;
    }
    if keep {
        return Ok(());
    }
    let made = layout.made().exists();
    let files = ["kubeconfig", "cluster.json", "server", "agent", "images", "registry", "network", "log"];
    for file in files.into_iter().map(|name| layout.data.join(name)).chain([layout.made()]) {
        remove(&file)?;
    }
    if made {
        remove_if_empty(&layout.data);
    }
    Ok(())
}

/// UIDs of the pods that ran here: those with a record, and those whose record an earlier `down` took while it kept
/// their logs.
fn pods(layout: &Layout) -> BTreeSet<String> {
    let records = std::fs::read_dir(layout.data.join("agent/pods")).into_iter().flatten().flatten();
    let mut pods: BTreeSet<_> = records.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let ended = std::fs::read_to_string(layout.ended_pods()).unwrap_or_default();
    pods.extend(ended.lines().map(str::to_owned));
    pods
}

/// Remembers whose logs are kept.
fn note(layout: &Layout, pods: &BTreeSet<String>) -> Outcome {
    let file = layout.ended_pods();
    if pods.is_empty() {
        return Ok(());
    }
    let text: String = pods.iter().map(|uid| format!("{uid}\n")).collect();
    std::fs::write(&file, text).map_err(|error| format!("cannot write {}: {error}", file.display()).into())
}

/// Removes the logs of these pods (`NAMESPACE_NAME_UID`). Another node program of this machine, a kubelet, may have its
/// pods' logs beside them.
fn remove_logs(logs: &Path, pods: &BTreeSet<String>) -> Outcome {
    for entry in std::fs::read_dir(logs).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let uid = name.to_str().and_then(|name| name.rsplit_once('_')).map(|(_, uid)| uid);
        if uid.is_some_and(|uid| pods.contains(uid)) {
            remove(&entry.path())?;
        }
    }
    remove_if_empty(logs);
    Ok(())
}

/// What is not empty, or mounted there by somebody, stays.
fn remove_if_empty(directory: &Path) {
    let _ = std::fs::remove_dir(directory);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A cluster with the record and logs of one pod, beside the logs of another program's pod.
    fn kept() -> (tempfile::TempDir, Layout) {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::of(&directory.path().join("data"));
        for path in ["agent/pods/u1", "log/pods/shop_web_u1/c", "log/pods/kube-system_dns_u2/c", "server"] {
            std::fs::create_dir_all(layout.data.join(path)).unwrap();
        }
        (directory, layout)
    }

    #[test]
    fn only_logs_of_our_pods_are_removed() {
        let (_directory, layout) = kept();
        let logs = layout.pod_logs();
        remove_logs(&logs, &pods(&layout)).unwrap();
        assert!(!logs.join("shop_web_u1").exists());
        assert!(logs.join("kube-system_dns_u2").exists());
        remove_logs(&logs, &BTreeSet::from(["u2".to_owned()])).unwrap();
        assert!(!logs.exists(), "an empty directory goes");
        remove_logs(&logs, &BTreeSet::new()).unwrap();
    }

    #[test]
    fn kept_logs_are_known_to_a_later_down() {
        let (_directory, layout) = kept();
        remove_files(&layout, true).unwrap();
        assert!(!layout.data.join("agent/pods").exists() && layout.pod_logs().join("shop_web_u1").exists());
        assert_eq!(pods(&layout), BTreeSet::from(["u1".to_owned()]));
        remove_files(&layout, true).unwrap();
        assert_eq!(pods(&layout).len(), 1, "twice is fine");
    }

    #[test]
    fn only_a_directory_that_up_made_is_removed() {
        let (_directory, layout) = kept();
        remove_files(&layout, false).unwrap();
        assert_eq!(std::fs::read_dir(&layout.data).unwrap().count(), 0, "it stays, empty");
        std::fs::write(layout.made(), "").unwrap();
        remove_files(&layout, false).unwrap();
        assert!(!layout.data.exists());
        remove_files(&layout, false).unwrap();
    }
}
