//! An OCI specification as a plan for a container's first process, and as one for a process that joins
//! a container that runs.

mod root;
mod sysctls;

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use catamaran_task::spec::Rootfs;
use libc::c_int;
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, Process, Spec};
use root::point;

use super::capability::Sets;
use super::plan::{IdMaps, Links, Need, Op, Plan, Point, PointKind};
pub(crate) use super::process::Invalid;
use super::process::{self, c_string, invalid};
use super::seccomp::Programs;
use crate::cgroup::Joining;

/// Descriptors 0, 1 and 2 of a process; `None` where a terminal takes their place.
#[derive(Debug, Default)]
pub(crate) struct Stdio(pub [Option<OwnedFd>; 3]);

/// What a plan is made of beside the specification.
pub(crate) struct Parts<'a> {
    pub rootfs: &'a Rootfs,
    /// Directory of the node over which layers are mounted.
    pub mount_point: &'a Path,
    pub joining: Joining,
    pub stdio: Stdio,
    pub capabilities: Sets,
    pub filters: &'a Programs,
}

/// The plan for a container's first process.
pub(crate) fn container(spec: &Spec, parts: Parts<'_>) -> Result<Plan, Invalid> {
    let Some(process) = spec.process() else { return invalid("the specification has no process") };
    let mut builder = Builder::default();
    // Layers are the agent's way; it has resolved the sources of volumes.
    if matches!(parts.rootfs, Rootfs::Overlay { .. }) {
        builder.links = Links::Refused;
    }
    builder.descriptors(parts.stdio);
    let mounts_of_cgroup = parts.joining.visible.clone();
    builder.cgroup(parts.joining);
    builder.namespaces(spec)?;
    builder.names(spec)?;
    builder.node_files(spec, process)?;
    builder.file_systems(spec, (parts.rootfs, parts.mount_point), &mounts_of_cgroup)?;
    if process.terminal() == Some(true) {
        builder.terminal(process, Some(point("dev/console", PointKind::File)?));
    }
    builder.hide(spec)?;
    builder.finish_root(spec)?;
    let ops = process::operations(process, parts.capabilities, parts.filters)?;
    builder.plan.ops.extend(ops);
    Ok(builder.finish())
}

/// The plan for a process in the container whose first process is `pidfd`.
pub(crate) fn joining(
    process: &Process,
    container: &Spec,
    pidfd: OwnedFd,
    parts: Parts<'_>,
) -> Result<Plan, Invalid> {
    let mut builder = Builder::default();
    builder.descriptors(parts.stdio);
    // A process cannot be born into the container's cgroup where that is killed at the same moment.
    builder.cgroup(parts.joining);
    builder.plan.ops.push(Op::NewSession);
    if let Some(adj) = process.oom_score_adj().or_else(|| first_oom_score(container)) {
        builder.oom_score(adj)?;
    }
    let listed = container.linux().as_ref().and_then(|l| l.namespaces().clone()).unwrap_or_default();
    let kinds = listed.iter().fold(0, |kinds, n| kinds | clone_flag(n.typ()));
    let here = kinds & !libc::CLONE_NEWPID;
    let fd = builder.hold(pidfd.try_clone().map_err(|e| Invalid(format!("copy a pidfd: {e}")))?);
    builder.plan.ops.push(Op::Enter { fd, kinds: here, what: "namespaces of the container".into() });
    if kinds & libc::CLONE_NEWPID != 0 {
        builder.plan.pid_namespace = Some(pidfd);
    }
    if process.terminal() == Some(true) {
        builder.terminal(process, None);
    }
    let ops = process::operations(process, parts.capabilities, parts.filters)?;
    builder.plan.ops.extend(ops);
    Ok(builder.finish())
}

fn first_oom_score(spec: &Spec) -> Option<i32> {
    spec.process().as_ref().and_then(Process::oom_score_adj)
}

fn clone_flag(kind: LinuxNamespaceType) -> c_int {
    match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Time => 0x80,
    }
}

#[derive(Default)]
struct Builder {
    plan: Plan,
    user_namespace: bool,
    /// A network namespace that belongs to the node's user namespace: sysfs of it cannot be mounted.
    foreign_network: bool,
    /// On the way to the sources of the specification's bind mounts.
    links: Links,
}

impl Builder {
    fn hold(&mut self, fd: OwnedFd) -> RawFd {
        let number = fd.as_raw_fd();
        self.plan.held.push(fd);
        number
    }

    fn push(&mut self, op: Op) {
        self.plan.ops.push(op);
    }

    /// Fills in which descriptors the walk needs: all that the plan holds.
    fn finish(mut self) -> Plan {
        let mut needed: Vec<RawFd> = self.plan.held.iter().map(AsRawFd::as_raw_fd).collect();
        needed.sort_unstable();
        if let Some(Op::Descriptors { keep, .. }) = self.plan.ops.first_mut() {
            *keep = needed;
        }
        self.plan
    }

    fn descriptors(&mut self, stdio: Stdio) {
        let numbers = stdio.0.map(|fd| fd.map(|fd| self.hold(fd)));
        self.push(Op::Descriptors { stdio: numbers, keep: Vec::new() });
    }

    fn cgroup(&mut self, joining: Joining) {
        for (path, file) in joining.files {
            let fd = self.hold(file);
            let path = CString::new(path.into_os_string().into_encoded_bytes()).unwrap_or_default();
            self.push(Op::JoinCgroup { fd, path });
        }
        self.plan.cgroup = joining.directory;
    }

    fn namespaces(&mut self, spec: &Spec) -> Result<(), Invalid> {
        let listed = spec.linux().as_ref().and_then(|l| l.namespaces().clone()).unwrap_or_default();
        let has = |kind| listed.iter().any(|n: &LinuxNamespace| n.typ() == kind);
        if !has(LinuxNamespaceType::Mount) {
            return invalid("linux.namespaces lacks mount: a container needs one of its own");
        }
        self.user_namespace =
            listed.iter().any(|n| n.typ() == LinuxNamespaceType::User && n.path().is_none());
        let mut after = Vec::new();
        for namespace in &listed {
            self.namespace(namespace, &mut after)?;
        }
        if self.user_namespace {
            self.plan.id_maps = Some(id_maps(spec)?);
            self.push(Op::BecomeRoot);
        }
        self.push(Op::NewSession);
        self.plan.ops.extend(after);
        Ok(())
    }

    fn namespace(&mut self, namespace: &LinuxNamespace, after: &mut Vec<Op>) -> Result<(), Invalid> {
        let kind = namespace.typ();
        let Some(path) = namespace.path() else {
            match kind {
                // Its root is the cgroup at that moment, so it comes after joining.
                LinuxNamespaceType::Cgroup => after.push(Op::NewCgroupNamespace),
                LinuxNamespaceType::Time => return invalid("a new time namespace is not supported"),
                _ => self.plan.namespaces |= clone_flag(kind) as u64,
            }
            if kind == LinuxNamespaceType::Network {
                after.push(Op::LoopbackUp);
            }
            return Ok(());
        };
        let file = File::open(path)
            .map_err(|e| Invalid(format!("open the {kind} namespace {}: {e}", path.display())))?;
        match kind {
            LinuxNamespaceType::Mount => return invalid("the mount namespace must be a new one"),
            LinuxNamespaceType::Pid => self.plan.pid_namespace = Some(file.into()),
            _ if self.user_namespace => {
                self.foreign_network |= kind == LinuxNamespaceType::Network;
                self.plan.entered_before.push((file.into(), clone_flag(kind)));
            }
            _ => {
                let fd = self.hold(file.into());
                let what = format!("{kind} namespace {}", path.display());
                // A user namespace first: it gives the right to enter the others.
                let op = Op::Enter { fd, kinds: clone_flag(kind), what };
                let at = if kind == LinuxNamespaceType::User { 0 } else { after.len() };
                after.insert(at, op);
            }
        }
        Ok(())
    }

    fn names(&mut self, spec: &Spec) -> Result<(), Invalid> {
        if let Some(name) = spec.hostname().as_deref().filter(|n| !n.is_empty()) {
            self.push(Op::Hostname(c_string("the host name", name)?));
        }
        if let Some(name) = spec.domainname().as_deref().filter(|n| !n.is_empty()) {
            self.push(Op::Domainname(c_string("the domain name", name)?));
        }
        Ok(())
    }

    /// What is written to the node's /proc, which shows the namespaces of whoever looks.
    fn node_files(&mut self, spec: &Spec, process: &Process) -> Result<(), Invalid> {
        if let Some(adj) = process.oom_score_adj() {
            self.oom_score(adj)?;
        }
        let linux = spec.linux().as_ref();
        let namespaces = linux.and_then(|l| l.namespaces().clone()).unwrap_or_default();
        for (name, value) in linux.and_then(|l| l.sysctl().clone()).unwrap_or_default() {
            let file = sysctls::file(&name, &namespaces)?;
            let path = c_string("the sysctl", format!("/proc/sys/{file}"))?;
            self.push(Op::Write { path, value: c_string("the sysctl value", value)?, need: Need::Must });
        }
        Ok(())
    }

    /// Below zero needs CAP_SYS_RESOURCE, which a node may not have.
    fn oom_score(&mut self, adj: i32) -> Result<(), Invalid> {
        let need = if adj < 0 { Need::BestEffort } else { Need::Must };
        let value = c_string("oom_score_adj", adj.to_string())?;
        self.push(Op::Write { path: c"/proc/self/oom_score_adj".into(), value, need });
        Ok(())
    }

    fn terminal(&mut self, process: &Process, console: Option<Point>) {
        let size = process.console_size().map_or((0, 0), |size| {
            let cut = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
            (cut(size.width()), cut(size.height()))
        });
        let owner = (process.user().uid(), process.user().gid());
        self.push(Op::Terminal { owner, console, size });
    }
}

fn id_maps(spec: &Spec) -> Result<IdMaps, Invalid> {
    let linux = spec.linux().as_ref();
    let lines = |maps: Option<Vec<LinuxIdMapping>>| {
        let line = |m: &LinuxIdMapping| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size());
        maps.unwrap_or_default().iter().map(line).collect::<String>()
    };
    let uid = lines(linux.and_then(|l| l.uid_mappings().clone()));
    let gid = lines(linux.and_then(|l| l.gid_mappings().clone()));
    if uid.is_empty() || gid.is_empty() {
        return invalid("a new user namespace needs linux.uidMappings and linux.gidMappings");
    }
    Ok(IdMaps { uid, gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let mut spec = Spec::default();
        let parts = || Parts {
            rootfs: &Rootfs::None,
            mount_point: Path::new("/"),
            joining: Joining::default(),
            stdio: Stdio::default(),
            capabilities: Sets::default(),
            filters: Box::leak(Box::default()),
        };
        assert!(container(&spec, parts()).unwrap_err().to_string().contains("root file system"));
        spec.linux_mut().as_mut().unwrap().set_namespaces(Some(vec![]));
        assert!(container(&spec, parts()).unwrap_err().to_string().contains("mount"));
    }
}
