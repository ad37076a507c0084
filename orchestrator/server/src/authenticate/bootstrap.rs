//! Bootstrap tokens (`ID.SECRET`): each is a Secret of type `bootstrap.kubernetes.io/token` in `kube-system`, with
//! an end, usages and groups. Pure but for the look at the Secret.

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde_json::Value;

use catamaran_api::meta;
use catamaran_store::Store;

use super::UserInfo;
use crate::encode;

/// Everybody with such a token.
const BOOTSTRAPPERS: &str = "system:bootstrappers";
const KIND: &str = "bootstrap.kubernetes.io/token";
const ID: usize = 6;
const SECRET: usize = 16;

/// Id and secret of a token that has the form of one.
pub(super) fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    (plain(id, ID) && plain(secret, SECRET)).then_some((id, secret))
}

/// The user that the token stands for, if it is good at this time.
pub(super) async fn find(store: &dyn Store, (id, secret): (&str, &str), now: Timestamp) -> Option<UserInfo> {
    let key = format!("/registry/core/secrets/kube-system/bootstrap-token-{id}");
    let entry = store.get(&key).await.ok()??;
    let object = encode::decode(&entry.value, entry.mod_revision).ok()?;
    user(&object, (id, secret), now)
}

fn user(object: &Value, (id, secret): (&str, &str), now: Timestamp) -> Option<UserInfo> {
    let data = |key: &str| -> Option<String> {
        let bytes = BASE64_STANDARD.decode(object["data"][key].as_str()?).ok()?;
        String::from_utf8(bytes).ok()
    };
    let good = object["type"] == KIND
        && !meta::is_being_deleted(object)
        && data("token-id").as_deref() == Some(id)
        && same(data("token-secret")?.as_bytes(), secret.as_bytes())
        && data("usage-bootstrap-authentication").as_deref() == Some("true");
    if let Some(end) = data("expiration") {
        // What cannot be read is over.
        if end.parse::<Timestamp>().ok()? <= now {
            return None;
        }
    }
    if !good {
        return None;
    }
    let extra = data("auth-extra-groups").unwrap_or_default();
    let extra: Vec<&str> = extra.split(',').map(str::trim).filter(|group| !group.is_empty()).collect();
    if !extra.iter().all(|group| is_bootstrap_group(group)) {
        return None;
    }
    let groups: Vec<&str> = std::iter::once(BOOTSTRAPPERS).chain(extra).collect();
    Some(UserInfo::new(format!("system:bootstrap:{id}"), &groups))
}

/// `system:bootstrappers:` and words of small letters, digits, `:` and `-`, with a letter or digit at the end.
fn is_bootstrap_group(group: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    group.strip_prefix("system:bootstrappers:").is_some_and(|rest| {
        rest.len() <= 256
            && rest.bytes().all(|byte| word(byte) || matches!(byte, b':' | b'-'))
            && rest.bytes().last().is_some_and(word)
    })
}

/// Compares in a time that tells nothing about where the difference is.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TOKEN: (&str, &str) = ("abcdef", "0123456789abcdef");

    fn object(change: impl Fn(&mut Value)) -> Value {
        let text = |text: &str| BASE64_STANDARD.encode(text);
        let mut object = json!({
            "metadata": {"name": "bootstrap-token-abcdef"}, "type": KIND,
            "data": {
                "token-id": text(TOKEN.0), "token-secret": text(TOKEN.1),
                "usage-bootstrap-authentication": text("true"),
                "expiration": text("2030-01-01T00:00:00Z"),
                "auth-extra-groups": text("system:bootstrappers:a:b-1,system:bootstrappers:x"),
            },
        });
        change(&mut object);
        object
    }

    #[test]
    fn forms() {
        for (token, good) in [
            ("abcdef.0123456789abcdef", true),
            ("abcde.0123456789abcdef", false),
            ("ABCDEF.0123456789abcdef", false),
            ("abcdef.0123456789abcde", false),
            ("a.b.c", false),
        ] {
            assert_eq!(parse(token).is_some(), good, "{token}");
        }
    }

    #[test]
    fn who_it_stands_for() {
        let now: Timestamp = "2029-12-31T00:00:00Z".parse().unwrap();
        let found = user(&object(|_| {}), TOKEN, now).unwrap();
        assert_eq!(found.name, "system:bootstrap:abcdef");
        assert_eq!(
            found.groups,
            [BOOTSTRAPPERS, "system:bootstrappers:a:b-1", "system:bootstrappers:x", "system:authenticated"]
        );
        let set = |key: &'static str, value: &'static str| {
            move |object: &mut Value| object["data"][key] = BASE64_STANDARD.encode(value).into()
        };
        let bad = [
            object(|object| object["type"] = "Opaque".into()),
            object(|object| object["metadata"]["deletionTimestamp"] = "2029-01-01T00:00:00Z".into()),
            object(set("token-id", "abcdeg")),
            object(set("token-secret", "0123456789abcdeg")),
            object(set("usage-bootstrap-authentication", "false")),
            object(set("expiration", "2029-12-31T00:00:00Z")),
            object(set("expiration", "soon")),
            object(set("auth-extra-groups", "system:masters")),
        ];
        for object in bad {
            assert_eq!(user(&object, TOKEN, now), None, "{object}");
        }
        let forever = object(|object| {
            object["data"].as_object_mut().unwrap().remove("expiration");
        });
        assert!(user(&forever, TOKEN, now).is_some());
    }
}
