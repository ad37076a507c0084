//! Which devices a container may use: rules of the v1 controller, or on v2 a program that the kernel
//! asks (BPF_PROG_TYPE_CGROUP_DEVICE).
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use super::{CgroupError, Layout};

const READ: u8 = 1;
const WRITE: u8 = 2;
const MKNOD: u8 = 4;

/// One rule: allowed or not, kind (`None` both), numbers (`None` all), what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<Kind>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Block,
    Char,
}

/// What every container may use: null, zero, full, random, urandom, tty, ptmx, terminals; and the
/// making (not the opening) of any device node.
const DEFAULTS: [(Kind, Option<u32>, Option<u32>, u8); 10] = [
    (Kind::Char, None, None, MKNOD),
    (Kind::Block, None, None, MKNOD),
    (Kind::Char, Some(1), Some(3), READ | WRITE | MKNOD),
    (Kind::Char, Some(1), Some(5), READ | WRITE | MKNOD),
    (Kind::Char, Some(1), Some(7), READ | WRITE | MKNOD),
    (Kind::Char, Some(1), Some(8), READ | WRITE | MKNOD),
    (Kind::Char, Some(1), Some(9), READ | WRITE | MKNOD),
    (Kind::Char, Some(5), Some(0), READ | WRITE | MKNOD),
    (Kind::Char, Some(5), Some(2), READ | WRITE | MKNOD),
    (Kind::Char, Some(136), None, READ | WRITE | MKNOD),
];

/// The rules in order, the last that fits decides; `None`: everything is allowed.
fn rules(resources: Option<&LinuxResources>) -> Option<Vec<Rule>> {
    let given: Vec<Rule> =
        resources.and_then(|r| r.devices().as_ref()).into_iter().flatten().flat_map(rule).collect();
    let all = |r: &Rule| r.kind.is_none() && r.major.is_none() && r.minor.is_none() && r.access == 7;
    let last_for_all = given.iter().rposition(all);
    if let Some(index) = last_for_all
        && given.get(index).is_some_and(|r| r.allow)
        && given.iter().skip(index + 1).all(|r| r.allow)
    {
        return None;
    }
    let defaults = DEFAULTS.iter().map(|(kind, major, minor, access)| Rule {
        allow: true,
        kind: Some(*kind),
        major: *major,
        minor: *minor,
        access: *access,
    });
    let after = last_for_all.map_or(0, |index| index + 1);
    Some(given.into_iter().skip(after).chain(defaults).collect())
}

fn rule(listed: &LinuxDeviceCgroup) -> Vec<Rule> {
    let access = listed.access().as_deref().unwrap_or("rwm").chars().fold(0, |bits, c| {
        bits | match c {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => 0,
        }
    });
    let number = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok());
    let of = |kind| Rule {
        allow: listed.allow(),
        kind,
        major: number(listed.major()),
        minor: number(listed.minor()),
        access,
    };
    match listed.typ() {
        Some(LinuxDeviceType::B) => vec![of(Some(Kind::Block))],
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => vec![of(Some(Kind::Char))],
        Some(LinuxDeviceType::P) => Vec::new(),
        Some(LinuxDeviceType::A) | None => vec![of(None)],
    }
}

/// Puts the rules of `resources` in force for the group at `path`.
pub(super) fn apply(
    layout: &Layout,
    path: &str,
    resources: Option<&LinuxResources>,
) -> Result<(), CgroupError> {
    let Some(rules) = rules(resources) else { return Ok(()) };
    if let Layout::V1 { controllers, .. } = layout
        && let Some(hierarchy) = controllers.get("devices")
    {
        return write_v1(&hierarchy.join(path), &rules);
    }
    let Some(root) = layout.unified() else { return Err(CgroupError::NoController("devices")) };
    attach(&root.join(path), &program(&rules)).map_err(CgroupError::Devices)
}

fn write_v1(directory: &Path, rules: &[Rule]) -> Result<(), CgroupError> {
    let write = |file: &str, value: &str| {
        let path = directory.join(file);
        fs::write(&path, value).map_err(|source| CgroupError::Write { path, value: value.into(), source })
    };
    write("devices.deny", "a")?;
    for rule in rules {
        let file = if rule.allow { "devices.allow" } else { "devices.deny" };
        for line in lines_v1(rule) {
            write(file, &line)?;
        }
    }
    Ok(())
}

fn lines_v1(rule: &Rule) -> Vec<String> {
    let number = |n: Option<u32>| n.map_or("*".into(), |n| n.to_string());
    let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')];
    let access: String = letters.iter().filter(|(bit, _)| rule.access & bit != 0).map(|(_, c)| c).collect();
    let kinds = match rule.kind {
        Some(Kind::Block) => vec!['b'],
        Some(Kind::Char) => vec!['c'],
        None => vec!['b', 'c'],
    };
    let line = |kind| format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor));
    kinds.into_iter().map(line).collect()
}

/// One instruction of eBPF, as the kernel lays it out.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: source << 4 | destination, offset, immediate }
}

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// The rules as a program: of each part of what is asked (make, read, write) the last rule that names it
/// decides, so they are asked from the last to the first.
/// The context is `{ u32 access_type, major, minor }`, access in the upper half of the first.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE_REGISTER, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let mut block: Vec<Instruction> = Vec::new();
        let mut tests: Vec<(usize, Instruction)> = Vec::new();
        if let Some(kind) = rule.kind {
            let number = if kind == Kind::Block { 1 } else { 2 };
            tests.push((block.len(), instruction(JUMP_NOT_EQUAL, 2, 0, 0, number)));
            block.push(instruction(EXIT, 0, 0, 0, 0));
        }
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            if let Some(number) = number {
                tests.push((block.len(), instruction(JUMP_NOT_EQUAL, register, 0, 0, number as i32)));
                block.push(instruction(EXIT, 0, 0, 0, 0));
            }
        }
        let named = i32::from(bits(rule.access));
        if rule.allow {
            // What it names is decided; the rules before it decide about the rest.
            block.push(instruction(AND, 3, 0, 0, !named));
            tests.push((block.len(), instruction(JUMP_NOT_EQUAL, 3, 0, 0, 0)));
        } else {
            // One part that is denied denies the whole.
            block.push(instruction(MOVE_REGISTER, 6, 3, 0, 0));
            block.push(instruction(AND, 6, 0, 0, named));
            tests.push((block.len(), instruction(JUMP_EQUAL, 6, 0, 0, 0)));
        }
        block.push(instruction(EXIT, 0, 0, 0, 0));
        block.push(instruction(MOVE, 0, 0, 0, i32::from(rule.allow)));
        block.push(instruction(EXIT, 0, 0, 0, 0));
        let length = block.len();
        for (at, mut test) in tests {
            test.offset = (length - at - 1) as i16;
            if let Some(slot) = block.get_mut(at) {
                *slot = test;
            }
        }
        code.extend(block);
    }
    code.push(instruction(MOVE, 0, 0, 0, 0));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

/// `BPF_DEVCG_ACC_*`: mknod 1, read 2, write 4.
fn bits(access: u8) -> u8 {
    let bit = |ours: u8, theirs: u8| if access & ours != 0 { theirs } else { 0 };
    bit(MKNOD, 1) | bit(READ, 2) | bit(WRITE, 4)
}

fn attach(directory: &Path, program: &[Instruction]) -> io::Result<()> {
    let loaded = load(program)?;
    let directory = File::open(directory)?;
    // target_fd, attach_bpf_fd, attach_type BPF_CGROUP_DEVICE = 6, flags BPF_F_ALLOW_MULTI = 2.
    let attributes = [directory.as_raw_fd() as u32, loaded.as_raw_fd() as u32, 6, 2, 0];
    // SAFETY: BPF_PROG_ATTACH (8) reads this many bytes of attributes.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, 8, attributes.as_ptr(), std::mem::size_of_val(&attributes)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log: [u64; 2],
        version_and_flags: u64,
        name: [u8; 16],
        interface: u32,
        expected: u32,
    }
    let attributes = Attributes {
        kind: 15,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log: [0; 2],
        version_and_flags: 0,
        name: *b"catamaran_dev\0\0\0",
        interface: 0,
        expected: 6,
    };
    // SAFETY: BPF_PROG_LOAD (5) reads the attributes and what they point at, all of it alive.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, 5, &raw const attributes, std::mem::size_of::<Attributes>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would: kind 1 block, 2 char; access as `BPF_DEVCG_ACC_*`.
    fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> u64 {
        let context = [access << 16 | kind, major, minor];
        let mut r = [0u64; 8];
        let mut at = 0;
        loop {
            let i = program[at];
            let (d, s) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            let immediate = i.immediate as i64 as u64;
            at += 1;
            let mut jump = |taken: bool| at += if taken { i.offset as usize } else { 0 };
            match i.code {
                LOAD_WORD => r[d] = u64::from(context[i.offset as usize / 4]),
                MOVE => r[d] = immediate,
                MOVE_REGISTER => r[d] = r[s],
                AND => r[d] &= immediate,
                SHIFT_RIGHT => r[d] >>= immediate,
                JUMP_NOT_EQUAL => jump(r[d] != immediate),
                JUMP_EQUAL => jump(r[d] == immediate),
                EXIT => return r[0],
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn of(devices: serde_json::Value) -> Option<Vec<Rule>> {
        let resources = serde_json::from_value(serde_json::json!({ "devices": devices })).unwrap();
        rules(Some(&resources))
    }

    #[test]
    fn denied_but_for_what_every_container_needs() {
        let program = program(&rules(None).unwrap());
        assert_eq!(run(&program, 2, 6, 1, 3), 1, "read and write null");
        assert_eq!(run(&program, 2, 6, 136, 7), 1, "any terminal");
        assert_eq!(run(&program, 2, 2, 10, 200), 0, "no tun");
        assert_eq!(run(&program, 1, 2, 8, 0), 0, "no disk");
        assert_eq!(run(&program, 1, 1, 8, 0), 1, "its node may be made");
        assert_eq!(run(&program, 1, 3, 8, 0), 0, "not made and read");
    }

    #[test]
    fn the_last_rule_that_fits_decides() {
        let rules = of(serde_json::json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "access": "rw"},
            {"allow": false, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        ]))
        .unwrap();
        let program = program(&rules);
        assert_eq!(run(&program, 2, 2, 10, 200), 1);
        assert_eq!(run(&program, 2, 2, 10, 229), 0);
        assert_eq!(run(&program, 2, 7, 10, 229), 0, "denied in part: making it is allowed, reading is not");
        assert_eq!(run(&program, 2, 1, 10, 229), 1);
    }

    #[test]
    fn each_part_of_what_is_asked_is_decided_by_itself() {
        let rules = of(serde_json::json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 1, "access": "rw"},
            {"allow": false, "type": "c", "major": 10, "minor": 1, "access": "w"},
            {"allow": true, "type": "c", "major": 10, "minor": 2, "access": "r"},
            {"allow": true, "type": "c", "major": 10, "minor": 2, "access": "w"},
        ]))
        .unwrap();
        let program = program(&rules);
        for (minor, access, allowed) in [
            (1, 2, 1),
            (1, 4, 0),
            (1, 6, 0),
            (1, 7, 0),
            (1, 3, 1),
            (2, 2, 1),
            (2, 4, 1),
            (2, 6, 1),
            (3, 2, 0),
        ] {
            assert_eq!(run(&program, 2, access, 10, minor), allowed, "minor {minor}, access {access}");
        }
        assert!(match load(&program) {
            Ok(_) => true,
            // A kernel without cgroup programs, or no right to load them.
            Err(e) => matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EPERM)),
        });
    }

    #[test]
    fn all_allowed_needs_no_program() {
        assert_eq!(of(serde_json::json!([{"allow": true, "access": "rwm"}])), None);
        assert!(of(serde_json::json!([{"allow": false, "access": "rwm"}])).is_some());
    }

    #[test]
    fn the_kernel_takes_the_program() {
        let program = program(&rules(None).unwrap());
        match load(&program) {
            Ok(_) => {}
            // A kernel without cgroup programs, or no right to load them.
            Err(e) => assert!(matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EPERM)), "{e}"),
        }
    }

    #[test]
    fn rules_in_the_words_of_v1() {
        let rule = Rule { allow: true, kind: None, major: Some(10), minor: None, access: READ | MKNOD };
        assert_eq!(lines_v1(&rule), ["b 10:* rm", "c 10:* rm"]);
    }
}
