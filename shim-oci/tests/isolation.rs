//! What a container sees and may do, asked from inside and from the kernel. Needs root.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use catamaran_task::pods::{ExecSpec, TaskError};
use catamaran_task::spec::{ContainerId, Output, Stdin};
use catamaran_task::status::{ExitReason, State};
use oci_spec::runtime::{LinuxResources, Process};
use serde_json::json;
use support::TestShim;

fn namespace(pid: u32, kind: &str) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().to_string_lossy().into_owned()
}

fn status_of(pid: u32, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{field} in {status}")).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_root_and_rights() {
    let shim = TestShim::start().await;
    let pid = shim.run(shim.container("a", &["run"])).await.pid;
    for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        assert_ne!(namespace(pid, kind), namespace(std::process::id(), kind), "{kind}");
    }
    assert_eq!(namespace(pid, "user"), namespace(std::process::id(), "user"));
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    assert!(root.contains(" - overlay "), "{root}");
    assert!(
        !mounts.contains(shim.path("scratch").to_str().unwrap_or("?")) || root.contains("lowerdir"),
        "{mounts}"
    );
    assert_eq!(status_of(pid, "NoNewPrivs"), "1");
    assert_eq!(status_of(pid, "Seccomp"), "2");
    assert_eq!(status_of(pid, "CapEff"), "00000000a80425fb");
    assert_eq!(status_of(pid, "CapBnd"), "00000000a80425fb");
    assert_eq!(status_of(pid, "CapAmb"), "0000000000000000");
    // Pid 1 inside; the parent is the keeper from the start.
    assert_eq!(status_of(pid, "NSpid").split_whitespace().last(), Some("1"));
    assert_eq!(status_of(pid, "PPid"), shim.keeper_pid().to_string());
    // Nothing of the shim's is open in there.
    let open: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().collect();
    assert_eq!(open.len(), 3, "{open:?}");
    shim.remove("a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_seen_from_inside() {
    let shim = TestShim::start().await;
    let commands = [
        "file",
        "/proc/sys/kernel/hostname",
        ",",
        "cwd",
        ",",
        "ids",
        ",",
        "env",
        "PATH",
        ",",
        "env",
        "HOME",
        ",",
        "file",
        "/data/file",
        ",",
        "link",
        "/dev/fd",
        ",",
        "link",
        "/dev/ptmx",
        ",",
        "mode",
        "/dev/null",
        ",",
        "file",
        "/proc/self/oom_score_adj",
        ",",
        "mode",
        "/dev/shm",
    ];
    let (exit, said) = shim.output(shim.container("seen", &commands)).await;
    assert_eq!(exit.code, 0, "{said}");
    let expected = "inside\ncwd=/\nids=0:0\nPATH=/usr/bin:/bin\nHOME=/root\nfrom the top layer\n/proc/self/fd\n\
                    pts/ptmx\n/dev/null 20666 0:0\n0\n/dev/shm 41777 0:0\n";
    assert_eq!(said, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_of_its_own() {
    let shim = TestShim::start().await;
    let commands = [
        "guest",
        "ids",
        ",",
        "env",
        "HOME",
        ",",
        "cwd",
        ",",
        "write",
        "/etc/new",
        "x",
        ",",
        "write",
        "/dev/stdout",
        "through the device\n",
        ",",
        "file",
        "/proc/self/oom_score_adj",
    ];
    let spec = shim.container_with("user", json!(commands), |spec| {
        spec["process"]["user"] = json!({"uid": 33, "gid": 34, "additionalGids": [5, 6]});
        spec["process"]["cwd"] = json!("/made/for/it");
        spec["process"]["oomScoreAdj"] = json!(500);
    });
    let pid_free = shim.output(spec).await;
    let (exit, said) = pid_free;
    assert_eq!(exit.code, 0);
    let expected = "ids=33:34,5,6\nHOME=/var/www\ncwd=/made/for/it\n/etc/new: Permission denied\n\
                    through the device\n/dev/stdout: ok\n500\n";
    assert_eq!(said, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused() {
    let shim = TestShim::start().await;
    let commands = "mount , unshare , clone3 , write /proc/sys/kernel/hostname x , file /proc/meminfo , \
                    write /proc/tty/x x , write /sys/fs/cgroup/x x , write /sys/kernel/x x";
    let arguments: Vec<&str> = ["guest"].into_iter().chain(commands.split_whitespace()).collect();
    let spec = shim.container_with("refused", json!(arguments), |spec| {
        spec["linux"]["maskedPaths"] = json!(["/proc/meminfo", "/proc/tty", "/proc/not/there"]);
    });
    let expected = "mount: Operation not permitted\n\
                    unshare: Operation not permitted\n\
                    clone3: Function not implemented\n\
                    /proc/sys/kernel/hostname: Read-only file system\n\
                    /proc/tty/x: Read-only file system\n\
                    /sys/fs/cgroup/x: Read-only file system\n\
                    /sys/kernel/x: Read-only file system\n";
    assert_eq!(shim.output(spec).await.1, expected, "a masked file reads as empty");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seccomp_only_where_wanted() {
    let shim = TestShim::start().await;
    let spec = shim.container_with("unconfined", json!(["guest", "clone3"]), |spec| {
        spec.as_object_mut().unwrap().remove("annotations");
    });
    assert_eq!(shim.output(spec).await.1, "clone3: Invalid argument\n");
    let spec = shim.container_with("own", json!(["guest", "cwd", ",", "chown", "/data/file"]), |spec| {
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["chown", "fchownat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 61}],
        });
    });
    assert_eq!(shim.output(spec).await.1, "cwd=/\nchown: No data available\n");
    // Without no_new_privs the filter goes in before the capabilities go out.
    let spec = shim.container_with("early", json!(["guest", "clone3", ",", "mount"]), |spec| {
        spec["process"]["noNewPrivileges"] = json!(false);
    });
    assert_eq!(
        shim.output(spec).await.1,
        "clone3: Function not implemented\nmount: Operation not permitted\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mounts_and_a_read_only_root() {
    let shim = TestShim::start().await;
    let volume = shim.path("volume");
    std::fs::create_dir_all(&volume).unwrap();
    std::fs::write(volume.join("f"), "of the volume\n").unwrap();
    let commands = [
        "guest", "file", "/v/f", ",", "write", "/v/f", "x", ",", "write", "/w/new", "y", ",", "write", "/r",
        "z", ",", "file", "/single",
    ];
    let spec = shim.container_with("mounts", json!(commands), |spec| {
        spec["root"]["readonly"] = json!(true);
        spec["mounts"].as_array_mut().unwrap().extend([
            json!({"destination": "/v", "type": "bind", "source": volume, "options": ["rbind", "rprivate", "ro"]}),
            json!({"destination": "/w", "type": "bind", "source": volume, "options": ["rbind", "rw"]}),
            json!({"destination": "/single", "type": "bind", "source": volume.join("f"), "options": ["bind", "ro"]}),
        ]);
    });
    let (_, said) = shim.output(spec).await;
    let expected = "of the volume\n/v/f: Read-only file system\n/w/new: ok\n/r: Read-only file system\n\
                    of the volume\n";
    assert_eq!(said, expected);
    assert_eq!(std::fs::read_to_string(volume.join("new")).unwrap(), "y");
}

/// Mounts that a container with shared propagation makes reach the node; those of its root do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_mounts_reach_the_node_and_the_root_does_not() {
    let shim = TestShim::start().await;
    let volume = shim.path("shared");
    std::fs::create_dir_all(volume.join("inner")).unwrap();
    let spec = shim.container_with("shared", json!(["guest", "run"]), |spec| {
        spec["linux"]["rootfsPropagation"] = json!("rshared");
        spec["mounts"].as_array_mut().unwrap().push(
            json!({"destination": "/v", "type": "bind", "source": volume, "options": ["rbind", "rshared"]}),
        );
    });
    let pid = shim.run(spec).await.pid;
    let now = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own = shim.path("");
    assert!(
        !now.contains(own.to_str().unwrap().trim_end_matches('/')),
        "its own mounts reached the node: {now}"
    );
    let inside = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let mounted = inside.lines().find(|line| line.split(' ').nth(4) == Some("/v")).unwrap();
    assert!(mounted.contains(" shared:"), "{mounted}");
    shim.remove("shared").await;
}

/// Links of an image that lead out of it lead into it instead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_do_not_lead_out_of_the_root() {
    let shim = TestShim::start().await;
    let outside = shim.path("outside");
    std::fs::create_dir_all(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, shim.path("layers/top/escape")).unwrap();
    std::os::unix::fs::symlink("../../../../..", shim.path("layers/top/up")).unwrap();
    let volume = shim.path("volume");
    std::fs::create_dir_all(&volume).unwrap();
    let spec = shim.container_with("links", json!(["guest", "mode", "/up/in/deep"]), |spec| {
        spec["mounts"].as_array_mut().unwrap().extend([
            json!({"destination": "/up/in/deep", "type": "bind", "source": volume, "options": ["bind"]}),
        ]);
    });
    let (_, said) = shim.output(spec).await;
    assert!(said.starts_with("/up/in/deep 40755"), "{said}");
    let spec = shim.container_with("dangling", json!(["guest", "exit", "0"]), |spec| {
        spec["mounts"].as_array_mut().unwrap().push(
            json!({"destination": "/escape/here", "type": "bind", "source": volume, "options": ["bind"]}),
        );
    });
    let result = shim.client.create(vec![spec]).await.remove(0);
    assert!(std::fs::read_dir(&outside).unwrap().next().is_none(), "something was made outside");
    let error = result.expect_err("a dangling link cannot be a mount point").to_string();
    assert!(error.contains("/escape/here"), "{error}");
    // A /proc that is a link is refused: it would not be hidden where it is expected.
    std::os::unix::fs::symlink("/data", shim.path("layers/top/proc")).unwrap();
    let error =
        shim.client.create(vec![shim.container("proc", &["run"])]).await.remove(0).unwrap_err().to_string();
    assert!(error.contains("mount proc"), "{error}");
}

/// Nor do links of a volume, which a container may have put there, lead to what is mounted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_of_mounts_are_not_looked_for_through_links() {
    let shim = TestShim::start().await;
    std::fs::create_dir_all(shim.path("volume/real")).unwrap();
    std::os::unix::fs::symlink("/etc", shim.path("volume/link")).unwrap();
    std::os::unix::fs::symlink(shim.path("volume"), shim.path("way")).unwrap();
    for (number, source) in ["volume/link", "way/real"].into_iter().enumerate() {
        let spec = shim.container_with(&format!("s{number}"), json!(["guest", "exit", "0"]), |spec| {
            let mount = json!({"destination": "/v", "type": "bind", "source": shim.path(source), "options": ["rbind"]});
            spec["mounts"].as_array_mut().unwrap().push(mount);
        });
        let error = shim.client.create(vec![spec]).await.remove(0).unwrap_err().to_string();
        assert!(error.contains("/v: ") && error.contains("symbolic link"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_the_kernel_stay_in_its_namespaces() {
    let shim = TestShim::start().await;
    let path = "/proc/sys/net/ipv4/tcp_fin_timeout";
    let before = std::fs::read_to_string(path).unwrap();
    let spec = shim.container_with("own", json!(["guest", "file", path]), |spec| {
        spec["linux"]["sysctl"] = json!({"net.ipv4.tcp_fin_timeout": "17", "kernel.shm_rmid_forced": "1"});
    });
    assert_eq!(shim.output(spec).await.1, "17\n");
    assert_eq!(std::fs::read_to_string(path).unwrap(), before);
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    for (number, name) in
        ["kernel.core_pattern", "vm.swappiness", "net.ipv4.ip_forward"].into_iter().enumerate()
    {
        let spec = shim.container_with(&format!("s{number}"), json!(["guest", "exit", "0"]), |spec| {
            spec["linux"]["sysctl"] = json!({name: "1"});
            if name.starts_with("net.") {
                let of_node = |namespace: &serde_json::Value| namespace["type"] != "network";
                spec["linux"]["namespaces"].as_array_mut().unwrap().retain(of_node);
            }
        });
        let error = shim.client.create(vec![spec]).await.remove(0).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), pattern);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_and_figures() {
    let shim = TestShim::start().await;
    let spec =
        shim.container_with("limits", json!(["guest", "hog", "8", ",", "spawn", ",", "run"]), |spec| {
            spec["linux"]["resources"] = json!({
                "memory": {"limit": 67108864}, "cpu": {"shares": 512, "quota": 50000, "period": 100000},
                "pids": {"limit": 20},
            });
        });
    let status = shim.run(spec).await;
    let group = std::fs::read_to_string(format!("/proc/{}/cgroup", status.pid)).unwrap();
    assert!(
        group.lines().any(|line| line.ends_with(&format!("/catamaran/{}/limits", shim.sandbox()))),
        "{group}"
    );
    let any = |files: &[(&str, &str)], value: &str| {
        let own = |hierarchy: &str| match hierarchy {
            "" => format!("/sys/fs/cgroup/catamaran/{}/limits", shim.sandbox()),
            name => format!("/sys/fs/cgroup/{name}/catamaran/{}/limits", shim.sandbox()),
        };
        let read = |(h, f): &(&str, &str)| std::fs::read_to_string(Path::new(&own(h)).join(f)).ok();
        let found: Vec<String> = files.iter().filter_map(read).collect();
        assert!(found.iter().any(|text| text.trim() == value), "{files:?}: {found:?}, not {value}");
    };
    any(&[("memory", "memory.limit_in_bytes"), ("", "memory.max")], "67108864");
    any(&[("pids", "pids.max"), ("", "pids.max")], "20");
    if Path::new("/sys/fs/cgroup/cpu").exists() {
        any(&[("cpu", "cpu.shares")], "512");
        any(&[("cpu", "cpu.cfs_quota_us")], "50000");
    } else {
        any(&[("", "cpu.max")], "50000 100000");
    }
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let stats = shim.client.stats(&[ContainerId("limits".into())]).await.unwrap().remove(0);
    assert!(stats.working_set_bytes > 8 << 20 && stats.working_set_bytes < 64 << 20, "{stats:?}");
    assert!(stats.cpu_ns > 0 && stats.pids == 2, "{stats:?}");
    assert_eq!(shim.client.pids(&ContainerId("limits".into())).await.unwrap().len(), 2);
    let more: LinuxResources = serde_json::from_value(json!({"memory": {"limit": 134217728}})).unwrap();
    shim.client.update(&ContainerId("limits".into()), more).await.unwrap();
    any(&[("memory", "memory.limit_in_bytes"), ("", "memory.max")], "134217728");
    shim.remove("limits").await;
    let left = Path::new("/sys/fs/cgroup/memory/catamaran").join(shim.sandbox());
    assert!(!left.exists(), "{} is left", left.display());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_for_memory() {
    let shim = TestShim::start().await;
    let spec = shim.container_with("oom", json!(["guest", "hog", "200"]), |spec| {
        spec["linux"]["resources"] = json!({"memory": {"limit": 16777216, "swap": 16777216}});
    });
    let (exit, said) = shim.output(spec).await;
    assert_eq!((exit.code, exit.reason), (137, ExitReason::OomKilled), "{said}");
}

/// The next attempt of a container has the cgroup path of the last one, which may not be deleted yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_share_the_path_of_a_cgroup_one_after_the_other() {
    let shim = TestShim::start().await;
    let attempt = |n: u32, args: serde_json::Value| {
        shim.container_with(&format!("attempt-{n}"), args, |spec| {
            spec["linux"]["cgroupsPath"] = json!(format!("/catamaran/{}/web", shim.sandbox()));
            spec["linux"]["resources"] = json!({"memory": {"limit": 16777216, "swap": 16777216}});
        })
    };
    let first = shim.run(attempt(1, json!(["guest", "hog", "100"]))).await.id;
    assert_eq!(shim.client.wait(&first).await.unwrap().reason, ExitReason::OomKilled);
    let second = shim.run(attempt(2, json!(["guest", "run"]))).await;
    let refused = shim.client.create(vec![attempt(3, json!(["guest", "run"]))]).await.remove(0).unwrap_err();
    assert!(
        matches!(&refused, TaskError::FailedPrecondition(text) if text.contains("attempt-2")),
        "{refused}"
    );
    shim.client.delete(&first).await.unwrap();
    let state = shim.client.status(std::slice::from_ref(&second.id)).await.unwrap().remove(0).state;
    assert_eq!(state, State::Running, "deleting the last attempt took the next one along");
    shim.client.kill(&second.id, 9).await.unwrap();
    let exit = shim.client.wait(&second.id).await.unwrap();
    assert_eq!(exit.reason, ExitReason::Exited, "the last attempt's fate is not this one's");
    shim.client.delete(&second.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_processes_holds() {
    let shim = TestShim::start().await;
    let spec = shim.container_with(
        "pids",
        json!(["guest", "spawn", ",", "spawn", ",", "fork", ",", "exit", "0"]),
        |spec| {
            spec["linux"]["resources"] = json!({"pids": {"limit": 3}});
        },
    );
    assert_eq!(shim.output(spec).await.1, "fork: Resource temporarily unavailable\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_outside_the_list_are_closed() {
    let shim = TestShim::start().await;
    let commands = ["guest", "file", "/dev/kmsg2", ",", "write", "/dev/null", "x", ",", "mode", "/dev/kmsg2"];
    let spec = shim.container_with("devices", json!(commands), |spec| {
        // The node is made, its use is not allowed.
        spec["linux"]["devices"] =
            json!([{"path": "/dev/kmsg2", "type": "c", "major": 1, "minor": 11, "fileMode": 438}]);
        spec["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    });
    let (_, said) = shim.output(spec).await;
    assert_eq!(said, "/dev/kmsg2: Operation not permitted\n/dev/null: ok\n/dev/kmsg2 20666 0:0\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_is_as_confined_as_its_container() {
    let shim = TestShim::start().await;
    let container = shim.run(shim.container("outer", &["run"])).await;
    let mut process = Process::default();
    process.set_args(Some(["guest", "run"].map(String::from).to_vec()));
    process.set_env(None).set_cwd("".into()).set_capabilities(None).set_rlimits(None);
    let exec = ExecSpec {
        exec_id: "e".into(),
        process,
        stdin: String::new(),
        stdout: String::new(),
        stderr: String::new(),
    };
    let pid = shim.client.exec(&container.id, exec).await.unwrap();
    for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        assert_eq!(namespace(pid, kind), namespace(container.pid, kind), "{kind}");
    }
    for field in ["NoNewPrivs", "Seccomp", "CapEff", "CapBnd"] {
        assert_eq!(status_of(pid, field), status_of(container.pid, field), "{field}");
    }
    let cgroup = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(cgroup(pid), cgroup(container.pid));
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    shim.remove("outer").await;
    let exit = shim.client.wait_exec(&container.id, "e").await;
    assert!(matches!(exit, Err(TaskError::NotFound(_))) || exit.is_ok_and(|e| e.code == 137));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal() {
    let shim = TestShim::start().await;
    let mut spec = shim.container_with("tty", json!(["guest", "tty", ",", "echo"]), |spec| {
        spec["process"]["terminal"] = json!(true);
        spec["process"]["consoleSize"] = json!({"width": 100, "height": 30});
    });
    spec.stdin = Stdin::Open;
    let id = shim.run(spec).await.id;
    let stdin = catamaran_shim_oci::stdin_path(&shim.path("root"), &id);
    std::fs::write(stdin, "typed\n\u{4}").unwrap();
    let exit = shim.client.wait(&id).await.unwrap();
    assert_eq!(exit.code, 0);
    let said = shim.said("tty");
    assert!(said.contains("tty=1 100x30 /dev/pts/0"), "{said}");
    assert!(said.matches("typed").count() == 2, "echoed by the terminal and by the program: {said}");
    shim.client.delete(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stdin_stays_open_until_it_is_closed() {
    let shim = TestShim::start().await;
    let mut spec = shim.container("input", &["echo", ",", "exit", "3"]);
    spec.stdin = Stdin::Once;
    let id = shim.run(spec).await.id;
    let stdin = catamaran_shim_oci::stdin_path(&shim.path("root"), &id);
    for text in ["first\n", "second\n"] {
        std::fs::write(&stdin, text).unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    }
    let state = shim.client.status(std::slice::from_ref(&id)).await.unwrap().remove(0).state;
    assert_eq!(state, State::Running);
    shim.client.close_stdin(&id, None).await.unwrap();
    assert_eq!(shim.client.wait(&id).await.unwrap().code, 3);
    assert_eq!(shim.said("input"), "first\nsecond\n");
    shim.client.delete(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_share_namespaces_by_path() {
    let shim = TestShim::start().await;
    let first = shim.run(shim.container("first", &["run"])).await;
    let spec = shim.container_with("second", json!(["guest", "run"]), |spec| {
        let path = |kind: &str| format!("/proc/{}/ns/{kind}", first.pid);
        spec["linux"]["namespaces"] = json!([
            {"type": "mount"}, {"type": "cgroup"}, {"type": "pid", "path": path("pid")},
            {"type": "network", "path": path("net")}, {"type": "ipc", "path": path("ipc")},
            {"type": "uts", "path": path("uts")},
        ]);
        spec.as_object_mut().unwrap().remove("hostname");
    });
    let second = shim.run(spec).await;
    for kind in ["pid", "net", "ipc", "uts"] {
        assert_eq!(namespace(first.pid, kind), namespace(second.pid, kind), "{kind}");
    }
    assert_ne!(namespace(first.pid, "mnt"), namespace(second.pid, "mnt"));
    shim.remove("second").await;
    shim.remove("first").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_of_its_own() {
    let shim = TestShim::start().await;
    let commands = [
        "guest",
        "ids",
        ",",
        "mode",
        "/data/file",
        ",",
        "chown",
        "/data/file",
        ",",
        "mode",
        "/data/file",
        ",",
        "write",
        "/new",
        "x",
        ",",
        "write",
        "/dev/null",
        "x",
    ];
    let spec = shim.container_with("mapped", json!(commands), |spec| {
        spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": 700_000, "size": 65536}]);
        spec["linux"]["uidMappings"] = map.clone();
        spec["linux"]["gidMappings"] = map;
    });
    let id = shim.run(spec).await.id;
    let exit = shim.client.wait(&id).await.unwrap();
    let said = shim.said("mapped");
    let expected =
        "ids=0:0\n/data/file 100644 0:0\nchown: ok\n/data/file 100644 5:5\n/new: ok\n/dev/null: ok\n";
    assert_eq!((exit.code, said.as_str()), (0, expected), "{exit:?}");
    use std::os::unix::fs::MetadataExt;
    let new = std::fs::metadata(shim.path("scratch/mapped/upper/new")).unwrap();
    assert_eq!((new.uid(), new.gid()), (700_000, 700_000), "on the node it belongs to nobody else");
    shim.client.delete(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_name_the_step() {
    let shim = TestShim::start().await;
    let create = |spec| {
        let client = shim.client.clone();
        async move { client.create(vec![spec]).await.remove(0).unwrap_err().to_string() }
    };
    let mount = |value: serde_json::Value| {
        shim.container_with("bad", json!(["guest", "run"]), |spec| {
            spec["mounts"].as_array_mut().unwrap().push(value);
        })
    };
    let said = create(mount(json!({"destination": "/x", "type": "nosuchfs", "source": "x"}))).await;
    assert!(said.contains("mount nosuchfs at /x") && said.contains("lacks that file system"), "{said}");
    let said = create(mount(json!({"destination": "/x", "type": "tmpfs", "options": ["sise=1"]}))).await;
    assert!(said.contains("option sise=1"), "{said}");
    let said = create(mount(
        json!({"destination": "/x", "type": "bind", "source": "/no/such", "options": ["bind"]}),
    ))
    .await;
    assert!(said.contains("/no/such"), "{said}");
    let spec = shim.container_with("bad", json!(["guest", "run"]), |spec| {
        spec["linux"]["sysctl"] = json!({"net.no.such": "1"});
    });
    let said = create(spec).await;
    assert!(said.contains("/proc/sys/net/no/such") && said.contains("No such file"), "{said}");
    let mut spec = shim.container("bad", &["run"]);
    spec.output = Output::Fifos { stdout: "/no/such/pipe".into(), stderr: String::new() };
    let said = create(spec).await;
    assert!(said.contains("/no/such/pipe"), "{said}");
    // Nothing of all these is left.
    assert!(shim.client.status(&[]).await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(shim.path("root/containers")).unwrap().count(), 0);
}

/// Calls that meet: one of two has its way, the other is told, and a successor of the same name is left alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_taken_once() {
    let shim = TestShim::start().await;
    let id = shim.run(shim.container("twice", &["run"])).await.id;
    let exec = |name: &str| {
        let mut process = Process::default();
        process.set_args(Some(["guest", "run"].map(String::from).to_vec()));
        process.set_env(None).set_cwd("".into()).set_capabilities(None).set_rlimits(None);
        let none = String::new;
        ExecSpec { exec_id: name.into(), process, stdin: none(), stdout: none(), stderr: none() }
    };
    for round in 0..5 {
        let name = format!("e{round}");
        let calls = (shim.client.exec(&id, exec(&name)), shim.client.exec(&id, exec(&name)));
        let results = futures::future::join(calls.0, calls.1).await;
        let made = [results.0, results.1];
        let taken = made.iter().filter(|r| matches!(r, Err(TaskError::AlreadyExists(_)))).count();
        assert_eq!((made.iter().filter(|r| r.is_ok()).count(), taken), (1, 1), "{made:?}");
    }
    for _ in 0..10 {
        shim.client.kill(&id, 9).await.unwrap();
        shim.client.wait(&id).await.unwrap();
        let results = futures::future::join(shim.client.delete(&id), shim.client.delete(&id)).await;
        let made = [results.0, results.1];
        assert!(made.iter().any(Result::is_ok), "{made:?}");
        assert!(made.iter().all(|r| matches!(r, Ok(()) | Err(TaskError::NotFound(_)))), "{made:?}");
        let again = shim.run(shim.container("twice", &["run"])).await;
        assert_eq!(again.state, State::Running);
    }
    shim.remove("twice").await;
}

/// Who asks for exits after the last one it was told of is told of all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exits_come_in_their_order() {
    let shim = TestShim::start().await;
    let count = 40;
    let poller = {
        let client = shim.client.clone();
        tokio::spawn(async move {
            let (mut last, mut seen) = (0, Vec::new());
            while seen.len() < count {
                for event in client.exits(last).await.unwrap() {
                    assert!(event.sequence > last);
                    last = event.sequence;
                    seen.push(event.id.0);
                }
            }
            seen
        })
    };
    let specs = (0..count).map(|n| shim.container(&format!("x{n}"), &["sleep", "50", ",", "exit", "0"]));
    for created in shim.client.create(specs.collect()).await {
        created.unwrap();
    }
    let ids: Vec<_> = (0..count).map(|n| ContainerId(format!("x{n}"))).collect();
    for started in futures::future::join_all(ids.iter().map(|id| shim.client.start(id))).await {
        started.unwrap();
    }
    let seen = tokio::time::timeout(std::time::Duration::from_secs(20), poller).await;
    let mut seen = seen.expect("an exit was not told").unwrap();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count);
    for id in &ids {
        shim.client.delete(id).await.unwrap();
    }
}
