//! Which kinds are encrypted with which keys: a file in the form of EncryptionConfiguration
//! (apiserver.config.k8s.io/v1). The first key of the first provider writes, all of them read.

use std::path::{Path, PathBuf};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::Deserialize;

use catamaran_api::decode::{self, ContentType, Strictness};

use super::provider::{CipherError, Key, SEALED};

/// Why the configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is no such configuration.
    #[error("{path} is not an EncryptionConfiguration of apiserver.config.k8s.io/v1: {reason}")]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    resources: Vec<Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Entry {
    resources: Vec<String>,
    providers: Vec<Provider>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Provider {
    aesgcm: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<serde_json::Map<String, serde_json::Value>>,
    aescbc: Option<serde_json::Value>,
    kms: Option<serde_json::Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    keys: Vec<NamedKey>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NamedKey {
    name: String,
    secret: String,
}

/// What is encrypted, and how.
pub(crate) struct Encryption(Vec<Rule>);

struct Rule {
    /// Group (`core` or `*`) and plural (or `*`).
    kinds: Vec<(String, String)>,
    chain: Vec<Link>,
}

enum Link {
    Key(Box<Key>),
    /// As it is.
    Identity,
}

impl Encryption {
    /// From a file.
    ///
    /// # Errors
    /// When the file is not a configuration that can be used.
    pub(crate) fn read(path: &Path) -> Result<Self, EncryptionError> {
        let text =
            std::fs::read(path).map_err(|source| EncryptionError::Read { path: path.to_owned(), source })?;
        Encryption::parse(&text).map_err(|reason| EncryptionError::Form { path: path.to_owned(), reason })
    }

    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let decoded = decode::untyped(text, ContentType::Yaml, Strictness::Strict);
        let value = decoded.map_err(|error| error.to_string())?.object;
        // What the library says may quote the file, keys included: only the place is told.
        let file: File = serde_json::from_value(value).map_err(|error| shape(&error))?;
        if file.kind != "EncryptionConfiguration" || file.api_version != "apiserver.config.k8s.io/v1" {
            return Err(format!("it is a {} of {}", file.kind, file.api_version));
        }
        if file.resources.is_empty() {
            return Err("resources: at least one entry is needed".to_owned());
        }
        let rules = file
            .resources
            .iter()
            .enumerate()
            .map(|(index, entry)| entry.rule().map_err(|reason| format!("resources[{index}]: {reason}")));
        Ok(Encryption(rules.collect::<Result<_, _>>()?))
    }

    fn rule(&self, key: &str) -> Option<&Rule> {
        let (group, rest) = key.strip_prefix("/registry/")?.split_once('/')?;
        let (plural, _) = rest.split_once('/')?;
        self.0.iter().find(|rule| {
            rule.kinds.iter().any(|(g, p)| (g == "*" || g == group) && (p == "*" || p == plural))
        })
    }

    /// The value of a key as it is stored.
    pub(super) fn seal(&self, key: &str, plain: Bytes) -> Result<Bytes, CipherError> {
        match self.rule(key).and_then(|rule| rule.chain.first()) {
            Some(Link::Key(with)) => with.seal(key, &plain).map(Bytes::from),
            Some(Link::Identity) | None => Ok(plain),
        }
    }

    /// The value of a key as it is served.
    pub(super) fn open(&self, key: &str, stored: Bytes) -> Result<Bytes, CipherError> {
        let sealed = stored.starts_with(SEALED);
        let Some(rule) = self.rule(key) else {
            return if sealed { Err(no_key(key, &stored)) } else { Ok(stored) };
        };
        for link in &rule.chain {
            match link {
                Link::Key(with) if with.made(&stored) => return with.open(key, &stored).map(Bytes::from),
                Link::Identity if !sealed => return Ok(stored),
                _ => {}
            }
        }
        Err(if sealed { no_key(key, &stored) } else { CipherError::Plain { key: key.to_owned() } })
    }

    /// Whether a stored value is not as it would be written today.
    pub(super) fn is_stale(&self, key: &str, stored: &[u8]) -> bool {
        match self.rule(key).and_then(|rule| rule.chain.first()) {
            Some(Link::Key(with)) => !with.made(stored),
            Some(Link::Identity) => stored.starts_with(SEALED),
            None => false,
        }
    }
}

fn no_key(key: &str, stored: &[u8]) -> CipherError {
    let prefix: Vec<&[u8]> = stored.splitn(6, |byte| *byte == b':').take(5).collect();
    let prefix = String::from_utf8_lossy(&prefix.join(&b':')).into_owned();
    CipherError::NoKey { key: key.to_owned(), prefix }
}

fn shape(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.split_once("unknown field") {
        Some((_, rest)) => format!("unknown field{rest}"),
        None => "a field has a value of another type than it should".to_owned(),
    }
}

impl Entry {
    fn rule(&self) -> Result<Rule, String> {
        if self.resources.is_empty() {
            return Err("resources: at least one is needed, such as secrets".to_owned());
        }
        let kinds = self.resources.iter().map(|resource| kind(resource)).collect();
        let mut chain = Vec::new();
        for (index, provider) in self.providers.iter().enumerate() {
            provider.links(&mut chain).map_err(|reason| format!("providers[{index}]: {reason}"))?;
        }
        if chain.is_empty() {
            return Err("providers: at least one is needed: aesgcm, secretbox or identity".to_owned());
        }
        Ok(Rule { kinds, chain })
    }
}

/// `secrets`, `deployments.apps`, `*.apps`, `*.` (the core group) or `*.*`.
fn kind(resource: &str) -> (String, String) {
    let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
    (if group.is_empty() { "core" } else { group }.to_owned(), plural.to_owned())
}

impl Provider {
    fn links(&self, chain: &mut Vec<Link>) -> Result<(), String> {
        if self.aescbc.is_some() {
            return Err(
                "aescbc cannot tell when a value was tampered with; use aesgcm or secretbox".to_owned()
            );
        }
        if self.kms.is_some() {
            return Err("kms is not there; use aesgcm or secretbox".to_owned());
        }
        type Make = fn(&str, &[u8]) -> Result<Key, CipherError>;
        let kinds: [(&str, &Option<Keys>, Make); 2] =
            [("aesgcm", &self.aesgcm, Key::aes_gcm), ("secretbox", &self.secretbox, Key::secretbox)];
        let before = chain.len();
        for (provider, keys, make) in kinds {
            let Some(keys) = keys else { continue };
            for (index, key) in keys.keys.iter().enumerate() {
                let at = |reason: String| format!("{provider}.keys[{index}]: {reason}");
                if key.name.is_empty() || key.name.contains(':') {
                    return Err(at("name: it must not be empty or have a ':'".to_owned()));
                }
                let secret = BASE64_STANDARD
                    .decode(&key.secret)
                    .map_err(|_| at("secret: it is not base64".to_owned()))?;
                let key = make(&key.name, &secret).map_err(|error| at(error.to_string()))?;
                chain.push(Link::Key(Box::new(key)));
            }
        }
        if self.identity.is_some() {
            chain.push(Link::Identity);
        }
        if chain.len() == before { Err("it has no key".to_owned()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(resources: &str, providers: &str) -> String {
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: {resources}\n  providers: {providers}\n"
        )
    }

    const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    const SECRET: &str = "/registry/core/secrets/d/s";

    #[test]
    fn the_first_writes_and_all_read() {
        let one = format!("[{{aesgcm: {{keys: [{{name: one, secret: {KEY}}}]}}}}, {{identity: {{}}}}]");
        let two = format!(
            "[{{secretbox: {{keys: [{{name: two, secret: {KEY}}}]}}}}, {{aesgcm: {{keys: [{{name: one, secret: {KEY}}}]}}}}]"
        );
        let one = Encryption::parse(file("[secrets]", &one).as_bytes()).unwrap();
        let two = Encryption::parse(file("[secrets, '*.apps']", &two).as_bytes()).unwrap();
        let plain = Bytes::from_static(b"{}");
        assert_eq!(one.open(SECRET, plain.clone()).unwrap(), plain, "written before encryption was on");
        assert!(one.is_stale(SECRET, &plain));
        let sealed = one.seal(SECRET, plain.clone()).unwrap();
        assert!(sealed.starts_with(b"k8s:enc:aesgcm:v1:one:") && !one.is_stale(SECRET, &sealed));
        assert_eq!(two.open(SECRET, sealed.clone()).unwrap(), plain);
        assert!(two.is_stale(SECRET, &sealed));
        let newer = two.seal(SECRET, plain.clone()).unwrap();
        assert!(newer.starts_with(b"k8s:enc:secretbox:v1:two:"));
        let error = one.open(SECRET, newer).unwrap_err().to_string();
        assert!(error.contains("k8s:enc:secretbox:v1:two") && error.contains(SECRET), "{error}");
        assert_eq!(two.open(SECRET, plain.clone()), Err(CipherError::Plain { key: SECRET.into() }));
        for (key, encrypted) in [
            ("/registry/core/configmaps/d/c", false),
            ("/registry/apps/deployments/d/x", true),
            ("/registry/core/secretsx/d/x", false),
        ] {
            let sealed = two.seal(key, plain.clone()).unwrap();
            assert_eq!(sealed.starts_with(SEALED), encrypted, "{key}");
        }
    }

    #[test]
    fn kinds() {
        for (text, group, plural) in [
            ("secrets", "core", "secrets"),
            ("deployments.apps", "apps", "deployments"),
            ("*.", "core", "*"),
            ("*.*", "*", "*"),
            ("roles.rbac.authorization.k8s.io", "rbac.authorization.k8s.io", "roles"),
        ] {
            assert_eq!(kind(text), (group.to_owned(), plural.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_refused() {
        let key = |name: &str, secret: &str| {
            format!("[{{aesgcm: {{keys: [{{name: '{name}', secret: '{secret}'}}]}}}}]")
        };
        let table = [
            (file("[secrets]", "[]"), "at least one is needed"),
            (file("[]", "[{identity: {}}]"), "such as secrets"),
            (file("[secrets]", "[{aescbc: {keys: []}}]"), "tampered"),
            (file("[secrets]", "[{kms: {}}]"), "kms is not there"),
            (file("[secrets]", "[{}]"), "no key"),
            (file("[secrets]", "[{other: {}}]"), "unknown field"),
            (file("[secrets]", &key("", KEY)), "keys[0]: name"),
            (file("[secrets]", &key("a:b", KEY)), "keys[0]: name"),
            (file("[secrets]", &key("a", "%")), "not base64"),
            (file("[secrets]", &key("a", "MDEy")), "16 or 32 bytes, this one has 3"),
            ("kind: Secret".to_owned(), "it is a Secret of "),
        ];
        for (text, expected) in table {
            let error = Encryption::parse(text.as_bytes()).err().unwrap_or_default();
            assert!(error.contains(expected), "{error:?} for {text}");
            assert!(!error.contains(KEY));
        }
    }
}
