//! Sets a container up to the gate. Each thing is on record before it is made, so that a worker that is
//! killed in between leaves nothing that its successor would not find and clean away.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use catamaran_task::pods::TaskError;
use catamaran_task::spec::{ContainerSpec, Output, Rootfs};
use oci_spec::runtime::{LinuxIdMapping, Spec};

use crate::cgroup::Cgroup;
use crate::container::Container;
use crate::exec::describe;
use crate::exits::Identity;
use crate::launch::capability::Sets;
use crate::launch::compile::{self, Parts};
use crate::launch::plan::{Op, Plan};
use crate::launch::{self, Launched};
use crate::shim::{self, Shim};
use crate::state::{Directory, Phase, Record};
use crate::stdio;

/// The container at its gate, and its terminal. Blocks for a millisecond or two.
pub(crate) fn create(
    shim: &Shim,
    spec: ContainerSpec,
) -> Result<(Arc<Container>, Option<OwnedFd>), TaskError> {
    let cgroup = shim::make_cgroup(shim, &spec)?;
    shim.claim_cgroup(cgroup.path(), &spec.id)?;
    let directory = shim.root.container(&spec.id);
    if let Err(e) = directory.create() {
        shim.release_cgroup(cgroup.path(), &spec.id);
        return Err(failed(&spec, "make its directory", &e));
    }
    match set_up(shim, &spec, &cgroup, &directory) {
        Ok((plan, launched, record)) => {
            let mut container = Container::new(spec, cgroup, directory, record);
            container.last_steps = last_steps(&plan);
            let terminal = launched.terminal;
            {
                let mut held = container.held();
                held.pidfd = Some(Arc::new(launched.pidfd));
                held.gate = Some(launched.gate);
                held.stdin_holder = plan.stdin_holder;
            }
            Ok((Arc::new(container), terminal))
        }
        Err(error) => {
            clean_up(shim, &spec, &cgroup, &directory);
            Err(error)
        }
    }
}

fn failed(spec: &ContainerSpec, what: &str, error: &dyn std::error::Error) -> TaskError {
    TaskError::Failed(format!("create {}: {what}: {}", spec.id.0, describe(error)))
}

/// A plan with what must stay open beside it.
struct Made {
    plan: Plan,
    stdin_holder: Option<OwnedFd>,
}

fn set_up(
    shim: &Shim,
    spec: &ContainerSpec,
    cgroup: &Cgroup,
    directory: &Directory,
) -> Result<(Made, Launched, Record), TaskError> {
    directory.write_spec(spec).map_err(|e| failed(spec, "write its specification", &e))?;
    let resources = spec.runtime_spec.linux().as_ref().and_then(|l| l.resources().as_ref());
    cgroup.create(resources).map_err(|e| failed(spec, "its cgroup", &e))?;
    make_scratch(spec).map_err(|e| failed(spec, "make its scratch directories", &e))?;
    let made = compile_plan(shim, spec, cgroup, directory)?;
    let launched =
        launch::launch(&made.plan).map_err(|e| TaskError::Failed(format!("create {}: {e}", spec.id.0)))?;
    let record = Record {
        phase: Phase::Created,
        process: Identity::of(launched.pid).map_err(|e| failed(spec, "look at its process", &e))?,
        started_at_ms: None,
        exit: None,
        sequence: None,
        cgroup: cgroup.path().to_owned(),
        boot: shim.root.boot.clone(),
    };
    directory.write_record(&record).map_err(|e| failed(spec, "write its state", &e))?;
    hand_to_keeper(shim, spec, directory, &made, &launched)
        .map_err(|e| failed(spec, "tell the keeper", &e))?;
    Ok((made, launched, record))
}

fn compile_plan(
    shim: &Shim,
    spec: &ContainerSpec,
    cgroup: &Cgroup,
    directory: &Directory,
) -> Result<Made, TaskError> {
    let invalid = |e: compile::Invalid| TaskError::InvalidArgument(format!("create {}: {e}", spec.id.0));
    let Some(process) = spec.runtime_spec.process() else {
        return Err(TaskError::InvalidArgument(format!("create {}: no process", spec.id.0)));
    };
    let owner = on_the_node(&spec.runtime_spec, process.user().uid(), process.user().gid());
    let terminal = process.terminal() == Some(true);
    let prepared = stdio::prepare(directory.path(), &spec.output, &spec.stdin, owner, terminal)
        .map_err(|e| failed(spec, "open its input and output", &e))?;
    let capabilities = Sets::new(process.capabilities().as_ref(), shim.capability_limit);
    let filters = shim.filters(&spec.runtime_spec, capabilities)?;
    let joining = cgroup.joining().map_err(|e| failed(spec, "its cgroup", &e))?;
    let parts = Parts {
        rootfs: &spec.rootfs,
        mount_point: &shim.root.mount_point(),
        joining,
        stdio: prepared.stdio,
        capabilities,
        filters: &filters,
    };
    let plan = compile::container(&spec.runtime_spec, parts).map_err(invalid)?;
    Ok(Made { plan, stdin_holder: prepared.stdin_holder })
}

/// What must outlive this worker.
fn hand_to_keeper(
    shim: &Shim,
    spec: &ContainerSpec,
    directory: &Directory,
    made: &Made,
    launched: &Launched,
) -> std::io::Result<()> {
    let store = |what: &str, fd: &OwnedFd| shim.custody.store(&spec.id.0, what, fd);
    match &launched.terminal {
        Some(terminal) => store("terminal", terminal)?,
        None if matches!(spec.output, Output::CriLog(_)) => {
            for name in [stdio::STDOUT, stdio::STDERR] {
                store(name, &stdio::open_reader(&directory.path().join(name))?)?;
            }
        }
        None => {}
    }
    if let Some(holder) = &made.stdin_holder {
        store(stdio::STDIN, holder)?;
    }
    // Last: a successor that finds the gate finds the rest as well.
    store("gate", launched.gate.fd())
}

/// Steps from the gate on in words: an error in them comes when the plan is gone.
fn last_steps(made: &Made) -> Vec<(u16, String)> {
    let steps = made.plan.ops.iter().enumerate();
    let last = steps.skip_while(|(_, op)| !matches!(op, Op::Gate));
    last.filter_map(|(number, op)| Some((u16::try_from(number).ok()?, op.describe(0)))).collect()
}

/// Ids of a container as the node sees them: others where it has a user namespace of its own.
fn on_the_node(spec: &Spec, uid: u32, gid: u32) -> (u32, u32) {
    let linux = spec.linux().as_ref();
    let mapped = |maps: Option<&Vec<LinuxIdMapping>>, id: u32| {
        let find = |m: &LinuxIdMapping| {
            let offset = id.checked_sub(m.container_id()).filter(|offset| *offset < m.size())?;
            m.host_id().checked_add(offset)
        };
        maps.and_then(|maps| maps.iter().find_map(find)).unwrap_or(id)
    };
    (
        mapped(linux.and_then(|l| l.uid_mappings().as_ref()), uid),
        mapped(linux.and_then(|l| l.gid_mappings().as_ref()), gid),
    )
}

fn make_scratch(spec: &ContainerSpec) -> std::io::Result<()> {
    let Rootfs::Overlay { scratch, .. } = &spec.rootfs else { return Ok(()) };
    for name in ["upper", "work"] {
        match fs::create_dir(scratch.join(name)) {
            Err(e) if e.kind() == ErrorKind::NotFound => fs::create_dir_all(scratch.join(name))?,
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    let (uid, gid) = on_the_node(&spec.runtime_spec, 0, 0);
    if (uid, gid) != (0, 0) {
        std::os::unix::fs::chown(scratch.join("upper"), Some(uid), Some(gid))?;
    }
    remove_volatile_mark(&scratch.join("work"))
}

/// An overlay mounted `volatile` refuses its directories after a use that was not its first.
fn remove_volatile_mark(work: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(work.join("work/incompat")) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn clean_up(shim: &Shim, spec: &ContainerSpec, cgroup: &Cgroup, directory: &Directory) {
    shim.custody.drop_all(&spec.id.0);
    cgroup.kill();
    if let Err(e) = cgroup.remove() {
        tracing::warn!(container = spec.id.0, error = %e, "remove the cgroup of a failed creation");
    }
    shim.release_cgroup(cgroup.path(), &spec.id);
    if let Err(e) = shim.discard_files(spec, directory) {
        tracing::warn!(container = spec.id.0, error = %e, "remove the files of a failed creation");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_as_the_node_sees_them() {
        let mut spec = Spec::default();
        assert_eq!(on_the_node(&spec, 5, 6), (5, 6));
        let map = |host: u32| {
            let map = serde_json::json!([{"containerID": 0, "hostID": host, "size": 100}]);
            serde_json::from_value::<Vec<LinuxIdMapping>>(map).unwrap()
        };
        let linux = spec.linux_mut().as_mut().unwrap();
        linux.set_uid_mappings(Some(map(1000))).set_gid_mappings(Some(map(2000)));
        assert_eq!(on_the_node(&spec, 5, 99), (1005, 2099));
        assert_eq!(on_the_node(&spec, 100, 100), (100, 100), "outside the map");
    }
}
