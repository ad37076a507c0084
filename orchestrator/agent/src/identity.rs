//! Who a container's program is: user, groups and home directory, from the security contexts and the image's
//! `User`, whose names are looked up in the image's own `/etc/passwd` and `/etc/group`.

use std::io::Read;
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::images::Image;
use crate::members::spec;

/// Larger files of users are not read.
const LARGEST: u64 = 4 << 20;

/// The ids a program runs with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// A user that cannot be told, or must not be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum IdentityError {
    #[error("the image wants to run as {0:?}, but its /etc/passwd names no such user")]
    NoUser(String),
    #[error("the image wants the group {0:?}, but its /etc/group names no such group")]
    NoGroup(String),
    #[error("container has runAsNonRoot and image will run as root (set runAsUser, or USER in the image)")]
    Root,
    #[error("{field} is {value}, which is no user or group id")]
    OutOfRange { field: &'static str, value: i64 },
}

/// The identity of a container.
pub(crate) fn resolve(pod: &Pod, container: &Container, image: &Image) -> Result<Identity, IdentityError> {
    let files = |name: &str| read_in_layers(&image.layers, name).unwrap_or_default();
    let identity = decide(pod, container, &image.config.user, &files("etc/passwd"), &files("etc/group"))?;
    Ok(identity)
}

fn decide(
    pod: &Pod,
    container: &Container,
    user: &str,
    passwd: &str,
    group: &str,
) -> Result<Identity, IdentityError> {
    let of_pod = spec(pod).security_context.clone().unwrap_or_default();
    let of_container = container.security_context.clone().unwrap_or_default();
    let (user, group_part) = user.split_once(':').map_or((user, None), |(user, group)| (user, Some(group)));
    let run_as = of_container.run_as_user.or(of_pod.run_as_user);
    let entry = match run_as {
        Some(uid) => by_uid(passwd, id("runAsUser", uid)?),
        None if user.is_empty() => by_uid(passwd, 0),
        None => match user.parse() {
            Ok(uid) => by_uid(passwd, uid),
            Err(_) => by_name(passwd, user).ok_or_else(|| IdentityError::NoUser(user.to_owned()))?,
        },
    };
    let gid = match (of_container.run_as_group.or(of_pod.run_as_group), group_part) {
        (Some(gid), _) => id("runAsGroup", gid)?,
        (None, Some(name)) if run_as.is_none() && !name.is_empty() => match name.parse() {
            Ok(gid) => gid,
            Err(_) => group_by_name(group, name).ok_or_else(|| IdentityError::NoGroup(name.to_owned()))?,
        },
        _ => entry.gid,
    };
    let mut groups: Vec<u32> =
        if entry.name.is_empty() { Vec::new() } else { memberships(group, &entry.name) };
    for extra in of_pod.supplemental_groups.iter().flatten().chain(&of_pod.fs_group) {
        groups.push(id("supplementalGroups", *extra)?);
    }
    groups.sort_unstable();
    groups.dedup();
    if entry.uid == 0 && of_container.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        return Err(IdentityError::Root);
    }
    Ok(Identity { uid: entry.uid, gid, groups, home: entry.home })
}

fn id(field: &'static str, value: i64) -> Result<u32, IdentityError> {
    u32::try_from(value).map_err(|_| IdentityError::OutOfRange { field, value })
}

struct Entry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

fn entries(passwd: &str) -> impl Iterator<Item = Entry> + '_ {
    passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
        let home = if home.is_empty() { "/" } else { home };
        Some(Entry { name: name.into(), uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.into() })
    })
}

fn by_name(passwd: &str, name: &str) -> Option<Entry> {
    entries(passwd).find(|entry| entry.name == name)
}

/// An id needs no entry.
fn by_uid(passwd: &str, uid: u32) -> Entry {
    let home = if uid == 0 { "/root" } else { "/" };
    let unnamed = Entry { name: String::new(), uid, gid: 0, home: home.into() };
    entries(passwd).find(|entry| entry.uid == uid).unwrap_or(unnamed)
}

fn group_by_name(group: &str, name: &str) -> Option<u32> {
    let mut lines = group.lines().map(|line| line.split(':').collect::<Vec<_>>());
    lines.find(|fields| fields.first() == Some(&name))?.get(2)?.parse().ok()
}

/// Groups that list the user.
fn memberships(group: &str, user: &str) -> Vec<u32> {
    let lines = group.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let of_user =
        lines.filter(|fields| fields.get(3).is_some_and(|members| members.split(',').any(|m| m == user)));
    of_user.filter_map(|fields| fields.get(2)?.parse().ok()).collect()
}

/// A file as the container sees it: of the topmost layer that has it. No link in it leads out of the layer.
fn read_in_layers(layers: &[PathBuf], name: &str) -> Option<String> {
    layers.iter().find_map(|layer| read_in(layer, name))
}

fn read_in(layer: &Path, name: &str) -> Option<String> {
    let file = Dir::open_ambient_dir(layer, ambient_authority()).ok()?.open(name).ok()?;
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nredis:x:999:998::/var/lib/redis:/bin/false\n";
    const GROUP: &str = "root:x:0:\nredis:x:998:\nssl:x:105:redis,other\n";

    fn identity(
        user: &str,
        pod: serde_json::Value,
        container: serde_json::Value,
    ) -> Result<Identity, IdentityError> {
        let pod: Pod = serde_json::from_value(
            serde_json::json!({"metadata": {"name": "p"}, "spec": {"containers": [], "securityContext": pod}}),
        )
        .unwrap();
        let container =
            serde_json::from_value(serde_json::json!({"name": "c", "securityContext": container})).unwrap();
        decide(&pod, &container, user, PASSWD, GROUP)
    }

    #[test]
    fn who_runs() {
        use serde_json::json;
        let table = [
            ("", json!({}), json!({}), (0, 0, vec![], "/root")),
            ("redis", json!({}), json!({}), (999, 998, vec![105], "/var/lib/redis")),
            ("999", json!({}), json!({}), (999, 998, vec![105], "/var/lib/redis")),
            ("redis:ssl", json!({}), json!({}), (999, 105, vec![105], "/var/lib/redis")),
            ("1234", json!({}), json!({}), (1234, 0, vec![], "/")),
            ("redis", json!({"runAsUser": 1000, "runAsGroup": 3000}), json!({}), (1000, 3000, vec![], "/")),
            (
                "",
                json!({"runAsUser": 1000}),
                json!({"runAsUser": 999}),
                (999, 998, vec![105], "/var/lib/redis"),
            ),
            (
                "",
                json!({"fsGroup": 2000, "supplementalGroups": [7]}),
                json!({}),
                (0, 0, vec![7, 2000], "/root"),
            ),
        ];
        for (user, pod, container, (uid, gid, groups, home)) in table {
            let expected = Identity { uid, gid, groups, home: home.into() };
            assert_eq!(identity(user, pod, container).unwrap(), expected, "{user}");
        }
    }

    #[test]
    fn wrong_users_are_refused() {
        use serde_json::json;
        assert_eq!(identity("nobody", json!({}), json!({})), Err(IdentityError::NoUser("nobody".into())));
        assert_eq!(identity("redis:no", json!({}), json!({})), Err(IdentityError::NoGroup("no".into())));
        assert_eq!(identity("", json!({"runAsNonRoot": true}), json!({})), Err(IdentityError::Root));
        assert!(identity("redis", json!({"runAsNonRoot": true}), json!({})).is_ok());
        assert!(identity("", json!({}), json!({"runAsUser": -1})).is_err());
    }
}
