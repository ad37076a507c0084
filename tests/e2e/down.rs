//! Point 13: `down` leaves nothing behind, also after everything was killed; kept data come back.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use catamaran_tests::cluster::{Cluster, Demo, catamaran};
use catamaran_tests::wait::until;
use catamaran_tests::{http, processes};

/// Everything on the machine that a cluster makes more of.
#[derive(Debug, PartialEq, Eq)]
struct Inventory {
    processes: BTreeSet<String>,
    mounts: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    links: BTreeSet<String>,
    routes: BTreeSet<String>,
    tables: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    ports: BTreeSet<String>,
}

fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(str::to_owned).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let run = Command::new(program).args(arguments).output();
    let run = run.unwrap_or_else(|e| panic!("{program}: {e}; the inventory needs it"));
    String::from_utf8_lossy(&run.stdout).into_owned()
}

impl Inventory {
    fn take() -> Self {
        let pids = fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|e| e.file_name().to_str().map(str::to_owned));
        let of_pids: Vec<_> = pids.filter(|p| p.bytes().all(|b| b.is_ascii_digit())).collect();
        let ours = [processes::of_file("catamaran"), processes::of_file("hello")].concat();
        let kinds = ["net", "mnt", "pid", "ipc", "uts"];
        let links = |pid: &String| {
            let links = kinds.map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok());
            links.into_iter().flatten().map(|l| l.display().to_string()).collect::<Vec<_>>()
        };
        let listening = |table: &str| {
            let text = read(table);
            let rows = text.lines().filter(|l| l.split_whitespace().nth(3) == Some("0A"));
            rows.filter_map(|l| l.split_whitespace().nth(1).map(str::to_owned)).collect::<Vec<_>>()
        };
        Inventory {
            processes: ours.iter().map(|process| format!("{process:?}")).collect(),
            mounts: read("/proc/self/mountinfo")
                .lines()
                .filter_map(|l| l.split(' ').nth(4))
                .map(str::to_owned)
                .collect(),
            namespaces: of_pids.iter().flat_map(links).collect(),
            links: read("/proc/net/dev")
                .lines()
                .skip(2)
                .filter_map(|l| l.split(':').next())
                .map(|n| n.trim().to_owned())
                .collect(),
            routes: lines(&read("/proc/net/route"))
                .into_iter()
                .chain(lines(&read("/proc/net/fib_trie")))
                .collect(),
            tables: lines(&output("nft", &["list", "tables"])),
            cgroups: lines(&output("find", &["/sys/fs/cgroup", "-type", "d", "-path", "*catamaran*"])),
            ports: listening("/proc/net/tcp").into_iter().chain(listening("/proc/net/tcp6")).collect(),
        }
    }
}

/// The inventory is the same before `up` and after `down`.
pub(crate) fn nothing_is_left() {
    let before = Inventory::take();
    let cluster = Cluster::up(Demo::With);
    assert_ne!(Inventory::take().links, before.links, "the inventory sees a running cluster");
    let down = cluster.run("down", &[]);
    assert_eq!(down.code, 0, "{}{}", down.stdout, down.stderr);
    compare(&before);
    let again = cluster.run("down", &[]);
    assert_eq!(again.code, 0, "down twice: {}{}", again.stdout, again.stderr);
}

fn compare(before: &Inventory) {
    until("the same inventory", Duration::from_secs(10), || {
        let after = Inventory::take();
        let known = after.namespaces.is_subset(&before.namespaces);
        let rest = Inventory { namespaces: before.namespaces.clone(), ..after };
        if known && rest == *before {
            return Ok(());
        }
        Err(format!("{:#?}", Inventory::take()))
    });
}

/// The same after every process of the cluster was killed with -9.
pub(crate) fn nothing_is_left_after_everything_was_killed() {
    let before = Inventory::take();
    let cluster = Cluster::up(Demo::With);
    let parts: BTreeSet<_> =
        processes::of_cluster(cluster.data()).iter().map(|process| process.part().to_owned()).collect();
    let all = ["agent", "dns", "server", "shim-oci", "shim-wasm", "supervisor"].map(str::to_owned);
    assert_eq!(parts, all.into(), "what is killed");
    until("nothing of the cluster runs", Duration::from_secs(10), || {
        // Whatever is started again meanwhile is killed in the next round.
        let mine = processes::of_cluster(cluster.data());
        processes::kill(&mine);
        if mine.is_empty() { Ok(()) } else { Err(format!("{mine:?}")) }
    });
    let down = cluster.run("down", &[]);
    assert_eq!(down.code, 0, "{}{}", down.stdout, down.stderr);
    compare(&before);
}

/// `down` of another data directory, and a second `up` on this one, leave a running cluster alone.
pub(crate) fn other_clusters_are_left_alone() {
    let cluster = Cluster::up(Demo::With);
    let before = processes::of_cluster(cluster.data());
    let elsewhere = tempfile::tempdir().unwrap();
    let data = elsewhere.path().join("data");
    let down = catamaran(&["down", "--data-dir", data.to_str().unwrap()]);
    let address = cluster.node_port("hello");
    for _ in 0..20 {
        assert_eq!(http::get(address, "/").unwrap().status, 200, "after {}{}", down.stdout, down.stderr);
    }
    cluster.start(Demo::Without, &[], &[]);
    assert_eq!(processes::of_cluster(cluster.data()), before, "nothing was started twice");
}

/// `up` on kept data brings every pod back.
pub(crate) fn kept_data_come_back() {
    let cluster = Cluster::up(Demo::With);
    cluster.kubectl.ok(&["create", "configmap", "kept", "--from-literal=a=b"]);
    let names =
        |cluster: &Cluster| cluster.kubectl.ok(&["get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"]);
    let pods = names(&cluster);
    let down = cluster.run("down", &["--keep-data"]);
    assert_eq!(down.code, 0, "{}{}", down.stdout, down.stderr);
    cluster.start(Demo::Without, &[], &[]);
    assert_eq!(cluster.kubectl.value(&["configmap", "kept"], "{.data.a}"), "b");
    for deployment in ["hello-wasm", "hello-container"] {
        cluster.wait_available(deployment);
    }
    assert_eq!(names(&cluster), pods, "the same pods");
    let address = cluster.node_port("hello");
    for kind in ["wasm", "container"] {
        until("both kinds answer again", Duration::from_secs(30), || {
            let body = http::get(address, "/").map_err(|e| e.to_string())?.body;
            if body.contains(kind) { Ok(()) } else { Err(body) }
        });
    }
}
