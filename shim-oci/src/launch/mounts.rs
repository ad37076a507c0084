//! Options of a mount, as an OCI specification lists them, in the terms of the mount calls.

use std::ffi::CString;

use super::sys::{MountAttr, attr};

/// What the options of one mount say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountOptions {
    pub bind: Bind,
    /// Attributes of the mount itself.
    pub own: MountAttr,
    /// Attributes of it and all mounts below it (`rro`, `rnosuid`, ...; `rslave`, ...).
    pub recursive: MountAttr,
    /// Parameters of the file system; without a value: flags.
    pub parameters: Vec<(CString, Option<CString>)>,
}

/// Whether a mount shows what is mounted elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Bind {
    #[default]
    No,
    One,
    WithAllBelow,
}

impl MountOptions {
    /// Whether the options say how mounts below and above reach each other.
    pub(crate) fn has_propagation(&self) -> bool {
        self.own.propagation != 0 || self.recursive.propagation != 0
    }
}

/// Reads the options of a mount. Unknown ones are parameters of the file system, which refuses what it
/// does not know; on a bind mount they mean nothing and are left out.
pub(crate) fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> Result<MountOptions, String> {
    let mut parsed = MountOptions::default();
    for option in options {
        match option {
            "bind" => {
                if parsed.bind == Bind::No {
                    parsed.bind = Bind::One;
                }
            }
            "rbind" => parsed.bind = Bind::WithAllBelow,
            // Meant for other tools, or what we do anyway.
            "defaults" | "tmpcopyup" | "async" | "auto" | "noauto" | "user" | "nouser" | "_netdev" => {}
            _ if option.starts_with("x-") || option.starts_with("X-") => {}
            _ if propagation(&mut parsed, option) => {}
            _ if attribute(&mut parsed, option) => {}
            _ => parsed.parameters.push(parameter(option)?),
        }
    }
    if parsed.bind != Bind::No {
        parsed.parameters.clear();
    }
    Ok(parsed)
}

fn parameter(option: &str) -> Result<(CString, Option<CString>), String> {
    let text = |s: &str| CString::new(s).map_err(|_| format!("the mount option {option:?} holds a NUL"));
    match option.split_once('=') {
        Some((key, value)) => Ok((text(key)?, Some(text(value)?))),
        None => Ok((text(option)?, None)),
    }
}

fn propagation(parsed: &mut MountOptions, option: &str) -> bool {
    let (attributes, kind) = match option.strip_prefix('r') {
        Some(kind) if !matches!(option, "ro" | "rw") => (&mut parsed.recursive, kind),
        _ => (&mut parsed.own, option),
    };
    let flag = match kind {
        "private" => libc::MS_PRIVATE,
        "slave" => libc::MS_SLAVE,
        "shared" => libc::MS_SHARED,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => return false,
    };
    attributes.propagation = flag;
    true
}

fn attribute(parsed: &mut MountOptions, option: &str) -> bool {
    // `relatime` begins with an r and is not the recursive form of `elatime`.
    let recursive = option.strip_prefix('r').filter(|rest| known(rest).is_some());
    let (attributes, name) = match recursive {
        Some(rest) => (&mut parsed.recursive, rest),
        None => (&mut parsed.own, option),
    };
    match known(name) {
        Some(Change::Set(bits)) => {
            if bits & attr::ATIME != 0 {
                attributes.set &= !attr::ATIME;
                attributes.clear |= attr::ATIME;
            }
            attributes.set |= bits;
            if bits & attr::ATIME == 0 {
                attributes.clear &= !bits;
            }
        }
        Some(Change::Clear(bits)) => {
            attributes.clear |= bits;
            attributes.set &= !bits;
        }
        None => return false,
    }
    true
}

enum Change {
    Set(u64),
    Clear(u64),
}

fn known(name: &str) -> Option<Change> {
    use Change::{Clear, Set};
    Some(match name {
        "ro" => Set(attr::RDONLY),
        "rw" => Clear(attr::RDONLY),
        "nosuid" => Set(attr::NOSUID),
        "suid" => Clear(attr::NOSUID),
        "nodev" => Set(attr::NODEV),
        "dev" => Clear(attr::NODEV),
        "noexec" => Set(attr::NOEXEC),
        "exec" => Clear(attr::NOEXEC),
        "noatime" => Set(attr::NOATIME),
        "strictatime" => Set(attr::STRICTATIME),
        "relatime" | "atime" | "norelatime" => Clear(attr::ATIME),
        "nodiratime" => Set(attr::NODIRATIME),
        "diratime" => Clear(attr::NODIRATIME),
        "nosymfollow" => Set(attr::NOSYMFOLLOW),
        "symfollow" => Clear(attr::NOSYMFOLLOW),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(options: &str) -> MountOptions {
        parse(options.split(',')).unwrap()
    }

    #[test]
    fn what_kubernetes_and_containerd_write() {
        let tmpfs = of("nosuid,strictatime,mode=755,size=65536k");
        assert_eq!(tmpfs.own.set, attr::NOSUID | attr::STRICTATIME);
        assert_eq!(tmpfs.parameters.len(), 2);
        let volume = of("rbind,rprivate,ro");
        assert_eq!(volume.bind, Bind::WithAllBelow);
        assert_eq!(volume.own.set, attr::RDONLY);
        assert_eq!(volume.recursive.propagation, libc::MS_PRIVATE);
        assert_eq!(of("rbind,rro,rslave").recursive.set, attr::RDONLY);
        assert_eq!(of("bind,rw").own.clear, attr::RDONLY);
        assert_eq!(of("relatime").recursive, MountAttr::default());
        assert_eq!(of("bind,mode=0755").parameters, vec![]);
        assert_eq!(of("ro,rw").own, MountAttr { clear: attr::RDONLY, ..MountAttr::default() });
        assert_eq!(of("rw,ro").own, MountAttr { set: attr::RDONLY, ..MountAttr::default() });
    }

    #[test]
    fn a_nul_is_refused() {
        assert!(parse(["size=1\0"]).is_err());
    }
}
