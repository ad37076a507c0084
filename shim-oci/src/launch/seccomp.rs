//! OCI seccomp profiles as filter programs. `seccompiler` makes programs with one action for what
//! matches; a profile with several actions becomes several programs, of which the kernel takes the
//! strictest answer.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use serde::Deserialize;

use super::capability;
use super::plan::Filter;
use super::syscalls;

/// The profile for containers that name none: data in the format of the OCI specification.
const DEFAULT_PROFILE: &str = include_str!("../../seccomp-default.json");
/// Profiles whose programs are kept.
const CACHED: usize = 64;

/// Why a profile was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeccompError {
    #[error("the seccomp action {0:?} is not supported")]
    Action(LinuxSeccompAction),
    #[error("the seccomp flag {0:?} is not supported")]
    Flag(LinuxSeccompFilterFlag),
    #[error("a seccomp rule compares argument {0}: arguments are 0 to 5")]
    Argument(usize),
    #[error("the seccomp profile does not compile: {0}")]
    Compile(String),
    #[error("the default seccomp profile does not parse: {0}")]
    Default(serde_json::Error),
}

/// Programs of a profile, installed in this order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Programs {
    pub filters: Vec<Filter>,
    /// Flags of seccomp(2).
    pub flags: u64,
}

/// Compiled profiles by their content.
#[derive(Debug, Default)]
pub(crate) struct Cache(Mutex<HashMap<u64, Programs>>);

impl Cache {
    /// Programs of `profile`, compiled once.
    pub(crate) fn get(&self, profile: &LinuxSeccomp) -> Result<Programs, SeccompError> {
        let mut hasher = DefaultHasher::new();
        serde_json::to_string(profile).map_err(|e| SeccompError::Compile(e.to_string()))?.hash(&mut hasher);
        self.entry(hasher.finish(), || compile(profile))
    }

    /// Programs of the default profile for a process whose bounding set is `capabilities`.
    pub(crate) fn default_profile(&self, capabilities: u64) -> Result<Programs, SeccompError> {
        self.entry(capabilities, || compile(&default_profile(capabilities)?))
    }

    fn entry(
        &self,
        key: u64,
        make: impl FnOnce() -> Result<Programs, SeccompError>,
    ) -> Result<Programs, SeccompError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(programs) = known.get(&key) {
            return Ok(programs.clone());
        }
        let programs = make()?;
        if known.len() >= CACHED {
            known.clear();
        }
        known.insert(key, programs.clone());
        Ok(programs)
    }
}

/// `seccomp-default.json`.
#[derive(Deserialize)]
struct DefaultProfile {
    profile: LinuxSeccomp,
    always: Vec<LinuxSyscall>,
    with: BTreeMap<String, Vec<LinuxSyscall>>,
    without: BTreeMap<String, Vec<LinuxSyscall>>,
}

/// The default profile with what a process of these capabilities may do beyond.
fn default_profile(capabilities: u64) -> Result<LinuxSeccomp, SeccompError> {
    let data: DefaultProfile = serde_json::from_str(DEFAULT_PROFILE).map_err(SeccompError::Default)?;
    let has = |name: &str| capability::number(name).is_some_and(|bit| capabilities >> bit & 1 == 1);
    let with = data.with.into_iter().filter(|(name, _)| has(name));
    let without = data.without.into_iter().filter(|(name, _)| !has(name));
    let mut rules = data.always;
    rules.extend(with.chain(without).flat_map(|(_, rules)| rules));
    let mut profile = data.profile;
    profile.set_syscalls(Some(rules));
    Ok(profile)
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// One program that lets through what any rule names and gives the default action to the rest; then one
/// for each action but allow, which gives it to what its rules name and lets the rest through.
fn compile(profile: &LinuxSeccomp) -> Result<Programs, SeccompError> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut named: Rules = BTreeMap::new();
    let mut groups: Vec<(SeccompAction, Rules)> = Vec::new();
    for syscall in profile.syscalls().iter().flatten() {
        let action = action(syscall.action(), syscall.errno_ret())?;
        // It says what holds anyway; named below, its calls would be let through instead.
        if action == default {
            continue;
        }
        let rules = rules(syscall.args().as_deref().unwrap_or_default())?;
        // Calls that this architecture does not have need no rule.
        for number in syscall.names().iter().filter_map(|name| syscalls::number(name)) {
            add(&mut named, number, &rules);
            if action == SeccompAction::Allow {
                continue;
            }
            let group = match groups.iter().position(|(of, _)| *of == action) {
                Some(index) => index,
                None => {
                    groups.push((action.clone(), BTreeMap::new()));
                    groups.len() - 1
                }
            };
            if let Some((_, group)) = groups.get_mut(group) {
                add(group, number, &rules);
            }
        }
    }
    let mut filters = Vec::new();
    if default != SeccompAction::Allow {
        filters.push(program(named, default, SeccompAction::Allow)?);
    }
    for (action, rules) in groups {
        filters.push(program(rules, SeccompAction::Allow, action)?);
    }
    Ok(Programs { filters, flags: flags(profile)? })
}

/// A call named without conditions stays so, whatever other rules say about it.
fn add(rules: &mut Rules, number: i64, new: &[SeccompRule]) {
    match rules.get_mut(&number) {
        None => {
            rules.insert(number, new.to_vec());
        }
        Some(known) if known.is_empty() || new.is_empty() => known.clear(),
        Some(known) => known.extend_from_slice(new),
    }
}

fn program(rules: Rules, other: SeccompAction, matching: SeccompAction) -> Result<Filter, SeccompError> {
    let failed = |e: seccompiler::BackendError| SeccompError::Compile(e.to_string());
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(failed)?;
    let filter = SeccompFilter::new(rules, other, matching, arch).map_err(failed)?;
    let program = BpfProgram::try_from(filter).map_err(failed)?;
    let instruction =
        |i: seccompiler::sock_filter| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k };
    Ok(Arc::new(program.into_iter().map(instruction).collect()))
}

/// All conditions of a rule must hold; where two look at the same argument, one of them must (as the
/// field's runtimes read it).
fn rules(arguments: &[LinuxSeccompArg]) -> Result<Vec<SeccompRule>, SeccompError> {
    let rule = |conditions| SeccompRule::new(conditions).map_err(|e| SeccompError::Compile(e.to_string()));
    let conditions: Vec<SeccompCondition> = arguments.iter().map(condition).collect::<Result<_, _>>()?;
    let repeats = arguments
        .iter()
        .enumerate()
        .any(|(i, a)| arguments.iter().skip(i + 1).any(|b| a.index() == b.index()));
    match (conditions.is_empty(), repeats) {
        (true, _) => Ok(Vec::new()),
        (false, true) => conditions.into_iter().map(|c| rule(vec![c])).collect(),
        (false, false) => Ok(vec![rule(conditions)?]),
    }
}

fn condition(argument: &LinuxSeccompArg) -> Result<SeccompCondition, SeccompError> {
    let value = argument.value();
    let (operator, value) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (SeccompCmpOp::Ne, value),
        LinuxSeccompOperator::ScmpCmpLt => (SeccompCmpOp::Lt, value),
        LinuxSeccompOperator::ScmpCmpLe => (SeccompCmpOp::Le, value),
        LinuxSeccompOperator::ScmpCmpEq => (SeccompCmpOp::Eq, value),
        LinuxSeccompOperator::ScmpCmpGe => (SeccompCmpOp::Ge, value),
        LinuxSeccompOperator::ScmpCmpGt => (SeccompCmpOp::Gt, value),
        // `value` is the mask, `valueTwo` what must be left.
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (SeccompCmpOp::MaskedEq(value), argument.value_two().unwrap_or(0))
        }
    };
    let index = u8::try_from(argument.index()).map_err(|_| SeccompError::Argument(argument.index()))?;
    SeccompCondition::new(index, SeccompCmpArgLen::Qword, operator, value)
        .map_err(|_| SeccompError::Argument(argument.index()))
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<SeccompAction, SeccompError> {
    let data = errno.unwrap_or(libc::EPERM as u32);
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => SeccompAction::Allow,
        LinuxSeccompAction::ScmpActErrno => SeccompAction::Errno(data),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => SeccompAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => SeccompAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => SeccompAction::Trap,
        LinuxSeccompAction::ScmpActTrace => SeccompAction::Trace(data),
        LinuxSeccompAction::ScmpActLog => SeccompAction::Log,
        LinuxSeccompAction::ScmpActNotify => return Err(SeccompError::Action(action)),
    })
}

fn flags(profile: &LinuxSeccomp) -> Result<u64, SeccompError> {
    let mut flags = 0;
    for flag in profile.flags().iter().flatten() {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            // The process has one thread when the filter is installed.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            #[allow(unreachable_patterns)]
            other => return Err(SeccompError::Flag(*other)),
        };
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel does, on one call.
    fn run(program: &[libc::sock_filter], number: i64, arguments: [u64; 6]) -> u32 {
        let arch: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
        let mut data = Vec::new();
        data.extend((number as u32).to_ne_bytes());
        data.extend(arch.to_ne_bytes());
        data.extend([0; 8]);
        arguments.iter().for_each(|a| data.extend(a.to_ne_bytes()));
        let (mut at, mut accumulator) = (0usize, 0u32);
        loop {
            let i = program[at];
            let (code, k) = (u32::from(i.code), i.k);
            at += 1;
            let jump = |taken: bool| usize::from(if taken { i.jt } else { i.jf });
            match code {
                0x20 => {
                    let at = k as usize;
                    accumulator = u32::from_ne_bytes(data[at..at + 4].try_into().unwrap());
                }
                0x54 => accumulator &= k,
                0x05 => at += k as usize,
                0x15 => at += jump(accumulator == k),
                0x25 => at += jump(accumulator > k),
                0x35 => at += jump(accumulator >= k),
                0x06 => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    /// The strictest answer of all programs, as the kernel takes it.
    fn ask(programs: &Programs, name: &str, arguments: [u64; 6]) -> u32 {
        let number = syscalls::number(name).unwrap();
        let answers = programs.filters.iter().map(|f| run(f, number, arguments));
        answers.min_by_key(|answer| (answer & 0xffff_0000) as i32).unwrap_or(libc::SECCOMP_RET_ALLOW)
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const fn errno(number: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | number as u32
    }

    #[test]
    fn the_default_profile_denies_by_default() {
        let programs = Cache::default().default_profile(0).unwrap();
        let bare = |name| ask(&programs, name, [0; 6]);
        for allowed in
            ["read", "execve", "openat", "epoll_wait", "clock_gettime", "socket", "clone", "ptrace"]
        {
            assert_eq!(bare(allowed), ALLOW, "{allowed}");
        }
        for denied in ["mount", "unshare", "setns", "bpf", "keyctl", "io_uring_setup", "reboot", "kexec_load"]
        {
            assert_eq!(bare(denied), errno(libc::EPERM), "{denied}");
        }
        assert_eq!(bare("clone3"), errno(libc::ENOSYS), "libraries fall back to clone");
        let first = |name, value| ask(&programs, name, [value, 0, 0, 0, 0, 0]);
        assert_eq!(first("clone", libc::CLONE_NEWUSER as u64), errno(libc::EPERM));
        assert_eq!(first("clone", libc::CLONE_VM as u64), ALLOW);
        assert_eq!(first("socket", libc::AF_VSOCK as u64), errno(libc::EPERM));
        assert_eq!(first("personality", 8), ALLOW);
        assert_eq!(first("personality", 0x0004_0000), errno(libc::EPERM));
    }

    #[test]
    fn a_capability_brings_its_calls() {
        let cache = Cache::default();
        let admin = cache.default_profile(1 << 21).unwrap();
        assert_eq!(ask(&admin, "mount", [0; 6]), ALLOW);
        assert_eq!(ask(&admin, "clone3", [0; 6]), ALLOW);
        assert_eq!(ask(&admin, "clone", [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(ask(&admin, "reboot", [0; 6]), errno(libc::EPERM));
    }

    #[test]
    fn a_rule_with_the_default_action_allows_nothing() {
        let profile = serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [
                { "names": ["read", "write"], "action": "SCMP_ACT_ALLOW" },
                { "names": ["mount"], "action": "SCMP_ACT_ERRNO" },
                { "names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 },
                { "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 },
                { "names": ["kill"], "action": "SCMP_ACT_ERRNO",
                  "args": [{ "index": 1, "value": 9, "op": "SCMP_CMP_EQ" }] },
            ],
        });
        let programs = compile(&serde_json::from_value(profile).unwrap()).unwrap();
        for (name, answer) in [
            ("read", ALLOW),
            ("mount", errno(libc::EPERM)),
            ("bpf", errno(libc::EPERM)),
            ("clone3", errno(libc::ENOSYS)),
            ("setns", errno(libc::EPERM)),
        ] {
            assert_eq!(ask(&programs, name, [0; 6]), answer, "{name}");
        }
        assert_eq!(ask(&programs, "kill", [1, 9, 0, 0, 0, 0]), errno(libc::EPERM));
    }

    #[test]
    fn several_actions_in_one_profile() {
        let profile = serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                { "names": ["getcwd", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 61 },
                { "names": ["chdir"], "action": "SCMP_ACT_KILL_PROCESS" },
                { "names": ["kill"], "action": "SCMP_ACT_LOG",
                  "args": [{ "index": 1, "value": 9, "op": "SCMP_CMP_EQ" }, { "index": 1, "value": 15, "op": "SCMP_CMP_EQ" }] },
            ],
        });
        let programs = compile(&serde_json::from_value(profile).unwrap()).unwrap();
        assert_eq!(ask(&programs, "getcwd", [0; 6]), errno(61));
        assert_eq!(ask(&programs, "chdir", [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(ask(&programs, "read", [0; 6]), ALLOW);
        for (signal, answer) in [(9, libc::SECCOMP_RET_LOG), (15, libc::SECCOMP_RET_LOG), (1, ALLOW)] {
            assert_eq!(ask(&programs, "kill", [1, signal, 0, 0, 0, 0]), answer);
        }
    }
}
