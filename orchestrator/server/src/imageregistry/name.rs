//! Repository names, tags and digests, by the grammar of the OCI distribution specification 1.1.

use std::fmt;
use std::str::FromStr;

/// A repository name such as `demo/hello`. Its components begin with a letter or digit, so it is a safe path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Name(String);

/// A tag such as `1.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag(String);

/// A SHA-256 digest; shown as `sha256:HEX`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Digest(String);

/// The text does not follow the grammar.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// A manifest's tag or digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reference {
    Tag(Tag),
    Digest(Digest),
}

impl Name {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tag {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Digest {
    /// The 64 hexadecimal digits.
    pub(super) fn hex(&self) -> &str {
        &self.0
    }

    /// From the 32 bytes of a SHA-256.
    pub(super) fn of(hash: &[u8]) -> Self {
        Digest(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{}", self.0)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => formatter.write_str(tag.as_str()),
            Reference::Digest(digest) => digest.fmt(formatter),
        }
    }
}

impl FromStr for Name {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let good = text.len() <= 255 && text.split('/').all(component);
        good.then(|| Name(text.to_owned())).ok_or(Malformed)
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn component(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut separator = 0..0;
    for (at, byte) in text.bytes().enumerate() {
        if alphanumeric(byte) {
            let between = &text[separator.start..separator.end];
            let fine = matches!(between, "" | "." | "_" | "__") || between.bytes().all(|byte| byte == b'-');
            if !fine || (at > 0 && separator.start == 0 && !between.is_empty()) {
                return false;
            }
            separator = at + 1..at + 1;
        } else if matches!(byte, b'.' | b'_' | b'-') {
            separator.end = at + 1;
        } else {
            return false;
        }
    }
    !text.is_empty() && separator.is_empty()
}

impl FromStr for Tag {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let good = text.len() <= 128
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'));
        good.then(|| Tag(text.to_owned())).ok_or(Malformed)
    }
}

impl FromStr for Digest {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let hex = text.strip_prefix("sha256:").ok_or(Malformed)?;
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (hex.len() == 64 && hex.bytes().all(digit)).then(|| Digest(hex.to_owned())).ok_or(Malformed)
    }
}

impl FromStr for Reference {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text.contains(':') {
            text.parse().map(Reference::Digest)
        } else {
            text.parse().map(Reference::Tag)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "demo/hello", "a.b_c__d--e/f0", "0"] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in
            ["", "A", "a/", "/a", "a//b", "../x", "a/../b", ".a", "a.", "-a", "a-", "a..b", "a___b", "a b"]
        {
            assert_eq!(bad.parse::<Name>(), Err(Malformed), "{bad}");
        }
        assert!("a".repeat(256).parse::<Name>().is_err());
    }

    #[test]
    fn tags_and_digests() {
        for good in ["latest", "1.0", "_x", "A-b.c"] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        for bad in ["", ".x", "-x", "a/b", "a b"] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
        let digest = format!("sha256:{}", "ab".repeat(32));
        assert_eq!(digest.parse::<Digest>().unwrap().to_string(), digest);
        for bad in ["sha256:ab", "sha512:00", "sha256:../../etc", &digest.to_uppercase()] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert_eq!(Digest::of(&[0xab; 32]).to_string(), digest);
    }
}
