//! The part of a plan that a container's first process and those run in it later share: limits, ids,
//! capabilities, filters, working directory, the gate, the program.

use std::ffi::CString;

use libc::c_int;
use oci_spec::runtime::{PosixRlimitType, Process};

use super::capability::Sets;
use super::plan::{Op, Program, Strings};
use super::seccomp::Programs;

/// Where a program without a slash is looked for, when the environment says nothing.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A specification that cannot be compiled: which part, and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Invalid(pub String);

pub(crate) fn invalid<T>(text: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid(text.into()))
}

/// A string for the kernel.
pub(crate) fn c_string(what: &str, text: impl Into<Vec<u8>>) -> Result<CString, Invalid> {
    CString::new(text)
        .map_err(|e| Invalid(format!("{what} {:?} holds a NUL", String::from_utf8_lossy(&e.into_vec()))))
}

/// Operations from the set-up of the file system to the program's first instruction.
pub(crate) fn operations(process: &Process, caps: Sets, filters: &Programs) -> Result<Vec<Op>, Invalid> {
    refuse_labels(process)?;
    let user = process.user();
    let mut ops = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let (resource, name) = rlimit(limit.typ());
        let limit = libc::rlimit64 { rlim_cur: limit.soft(), rlim_max: limit.hard() };
        ops.push(Op::Rlimit { resource, name, limit });
    }
    let filter_ops = |ops: &mut Vec<Op>| {
        let install =
            |filter: &super::plan::Filter| Op::Seccomp { filter: filter.clone(), flags: filters.flags };
        ops.extend(filters.filters.iter().map(install));
    };
    let no_new_privileges = process.no_new_privileges() == Some(true);
    let cwd = process.cwd();
    if !cwd.is_absolute() {
        return invalid(format!("the working directory {} is not absolute", cwd.display()));
    }
    ops.push(Op::Chdir(c_string("the working directory", cwd.as_os_str().as_encoded_bytes())?));
    if no_new_privileges {
        ops.push(Op::NoNewPrivileges);
    } else {
        // Without no_new_privs a filter may be installed only while we still have CAP_SYS_ADMIN.
        filter_ops(&mut ops);
    }
    ops.push(Op::BoundingSet(caps.bounding));
    ops.push(Op::KeepCapabilities);
    ops.push(Op::Groups(user.additional_gids().clone().unwrap_or_default()));
    ops.push(Op::Ids { uid: user.uid(), gid: user.gid() });
    ops.push(Op::Capabilities {
        effective: caps.effective,
        permitted: caps.permitted,
        inheritable: caps.inheritable,
    });
    if caps.ambient != 0 {
        ops.push(Op::AmbientSet(caps.ambient));
    }
    ops.push(Op::Umask(user.umask().unwrap_or(0o022)));
    ops.push(Op::Gate);
    if no_new_privileges {
        filter_ops(&mut ops);
    }
    ops.push(Op::Exec(Box::new(program(process)?)));
    Ok(ops)
}

/// What this runtime cannot give it must not pretend to give.
fn refuse_labels(process: &Process) -> Result<(), Invalid> {
    match process.apparmor_profile().as_deref() {
        None | Some("" | "unconfined") => {}
        Some(profile) => {
            return invalid(format!("the AppArmor profile {profile:?} cannot be applied by this runtime"));
        }
    }
    match process.selinux_label().as_deref() {
        None | Some("") => Ok(()),
        Some(label) => invalid(format!("the SELinux label {label:?} cannot be applied by this runtime")),
    }
}

fn program(process: &Process) -> Result<Program, Invalid> {
    let arguments = process.args().as_deref().unwrap_or_default();
    let Some(name) = arguments.first().filter(|name| !name.is_empty()) else {
        return invalid("no command: neither the container nor its image names one");
    };
    let environment = process.env().as_deref().unwrap_or_default();
    let path = environment.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let candidates = candidates(name, path);
    let strings = |what: &str, list: &[String]| -> Result<Strings, Invalid> {
        let list: Result<Vec<CString>, Invalid> = list.iter().map(|s| c_string(what, s.as_str())).collect();
        Ok(Strings::new(list?))
    };
    Ok(Program {
        name: name.clone(),
        candidates: candidates.into_iter().map(|c| c_string("the command", c)).collect::<Result<_, _>>()?,
        arguments: strings("the argument", arguments)?,
        environment: strings("the environment variable", environment)?,
        home_of: (!environment.iter().any(|e| e.starts_with("HOME="))).then(|| process.user().uid()),
    })
}

/// Paths that may be the program, in order.
fn candidates(name: &str, path: &str) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    path.split(':')
        .map(
            |directory| {
                if directory.is_empty() { format!("./{name}") } else { format!("{directory}/{name}") }
            },
        )
        .collect()
}

fn rlimit(kind: PosixRlimitType) -> (c_int, &'static str) {
    use PosixRlimitType as T;
    match kind {
        T::RlimitCpu => (libc::RLIMIT_CPU as c_int, "RLIMIT_CPU"),
        T::RlimitFsize => (libc::RLIMIT_FSIZE as c_int, "RLIMIT_FSIZE"),
        T::RlimitData => (libc::RLIMIT_DATA as c_int, "RLIMIT_DATA"),
        T::RlimitStack => (libc::RLIMIT_STACK as c_int, "RLIMIT_STACK"),
        T::RlimitCore => (libc::RLIMIT_CORE as c_int, "RLIMIT_CORE"),
        T::RlimitRss => (libc::RLIMIT_RSS as c_int, "RLIMIT_RSS"),
        T::RlimitNproc => (libc::RLIMIT_NPROC as c_int, "RLIMIT_NPROC"),
        T::RlimitNofile => (libc::RLIMIT_NOFILE as c_int, "RLIMIT_NOFILE"),
        T::RlimitMemlock => (libc::RLIMIT_MEMLOCK as c_int, "RLIMIT_MEMLOCK"),
        T::RlimitAs => (libc::RLIMIT_AS as c_int, "RLIMIT_AS"),
        T::RlimitLocks => (libc::RLIMIT_LOCKS as c_int, "RLIMIT_LOCKS"),
        T::RlimitSigpending => (libc::RLIMIT_SIGPENDING as c_int, "RLIMIT_SIGPENDING"),
        T::RlimitMsgqueue => (libc::RLIMIT_MSGQUEUE as c_int, "RLIMIT_MSGQUEUE"),
        T::RlimitNice => (libc::RLIMIT_NICE as c_int, "RLIMIT_NICE"),
        T::RlimitRtprio => (libc::RLIMIT_RTPRIO as c_int, "RLIMIT_RTPRIO"),
        T::RlimitRttime => (libc::RLIMIT_RTTIME as c_int, "RLIMIT_RTTIME"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(value: serde_json::Value) -> Process {
        serde_json::from_value(value).unwrap()
    }

    fn names(ops: &[Op]) -> Vec<&'static str> {
        ops.iter()
            .map(|op| match op {
                Op::Seccomp { .. } => "seccomp",
                Op::NoNewPrivileges => "no_new_privs",
                Op::Capabilities { .. } => "capabilities",
                Op::Gate => "gate",
                Op::Exec(_) => "exec",
                _ => "",
            })
            .filter(|name| !name.is_empty())
            .collect()
    }

    #[test]
    fn filters_come_last_with_no_new_privileges_and_before_the_drop_without() {
        let filters = Programs { filters: vec![std::sync::Arc::default()], flags: 0 };
        let of = |nnp: bool| {
            let p = process(serde_json::json!({
                "args": ["a"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "noNewPrivileges": nnp,
            }));
            names(&operations(&p, Sets::default(), &filters).unwrap())
        };
        assert_eq!(of(true), ["no_new_privs", "capabilities", "gate", "seccomp", "exec"]);
        assert_eq!(of(false), ["seccomp", "capabilities", "gate", "exec"]);
    }

    #[test]
    fn the_program_is_looked_for_in_the_containers_path() {
        assert_eq!(candidates("sh", "/a:/b::"), ["/a/sh", "/b/sh", "./sh", "./sh"]);
        assert_eq!(candidates("bin/sh", "/a"), ["bin/sh"]);
    }

    #[test]
    fn bad_specifications_say_what_is_wrong() {
        let of = |value: serde_json::Value| {
            operations(&process(value), Sets::default(), &Programs::default()).unwrap_err().to_string()
        };
        let user = serde_json::json!({"uid": 0, "gid": 0});
        assert!(of(serde_json::json!({"cwd": "/", "user": user})).contains("no command"));
        assert!(of(serde_json::json!({"cwd": "x", "args": ["a"], "user": user})).contains("not absolute"));
        assert!(of(serde_json::json!({"cwd": "/", "args": ["a\0"], "user": user})).contains("NUL"));
        let labelled = serde_json::json!({"cwd": "/", "args": ["a"], "user": user, "apparmorProfile": "p"});
        assert!(of(labelled).contains("AppArmor"));
    }
}
