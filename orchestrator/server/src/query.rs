//! Query strings: `a=1&b=2&b=3`, percent-decoded, in the order in which they came.

/// The decoded parameters of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses the part of a URI after `?`. Broken escapes are kept as they are.
    pub fn parse(raw: Option<&str>) -> Self {
        let pairs = raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Query(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name, Plus::IsSpace), decode(value, Plus::IsSpace))
                })
                .collect(),
        )
    }

    /// The first value of `name`; an empty value counts as absent, as it does in Kubernetes.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// Every value of `name`, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether `name` is given and means true (`true`, `1`, or present without a value).
    pub fn flag(&self, name: &str) -> bool {
        self.all(name)
            .next()
            .is_some_and(|value| matches!(value, "true" | "1" | "True" | "TRUE" | "t" | "T" | ""))
    }
}

/// How `+` is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plus {
    IsSpace,
    IsPlus,
}

/// Percent-decodes one component.
pub(crate) fn decode(raw: &str, plus: Plus) -> String {
    let bytes = raw.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[at], escape.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (b'+', _) if plus == Plus::IsSpace => {
                out.push(b' ');
                at += 1;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|broken| String::from_utf8_lossy(broken.as_bytes()).into_owned())
}

/// Percent-encodes one query component.
pub(crate) fn encode(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    for byte in raw.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_escapes_plus_and_repetition() {
        let query = Query::parse(Some("command=ls&command=-l%20a&x=a+b&empty=&bad=%zz&%70=1"));
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["ls", "-l a"]);
        assert_eq!(query.get("x"), Some("a b"));
        assert_eq!(query.get("empty"), None);
        assert_eq!(query.get("bad"), Some("%zz"));
        assert_eq!(query.get("p"), Some("1"));
        assert_eq!(Query::parse(None), Query::default());
    }

    #[test]
    fn flags() {
        for (raw, expected) in
            [("w=true", true), ("w=1", true), ("w", true), ("w=false", false), ("w=0", false), ("", false)]
        {
            assert_eq!(Query::parse(Some(raw)).flag("w"), expected, "{raw}");
        }
    }

    #[test]
    fn encoding_round_trips() {
        let text = "a b/ü+%=&";
        assert_eq!(decode(&encode(text), Plus::IsSpace), text);
    }
}
