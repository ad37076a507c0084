//! Names, label keys and values, port names, config keys: what is allowed, in Kubernetes' words, and generated names.
//! A check returns the messages of everything that is wrong; an empty list means a good name.

/// The messages of a refused name.
pub type Messages = Vec<String>;

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;
const LABEL_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FORMAT: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_1035_FORMAT: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED_FORMAT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_WORDS: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const EMPTY: &str = "must be non-empty";

/// Characters of generated suffixes: no vowels, so that no words appear.
const SUFFIX_LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
const GENERATED_BASE_MAX: usize = 58;

/// `must be between LOW and HIGH, inclusive`.
pub fn inclusive_range(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn regex_message(words: &str, format: &str, examples: &[&str]) -> String {
    let mut text = format!("{words} (");
    for (i, example) in examples.iter().enumerate() {
        text.push_str(if i == 0 { "e.g. " } else { " or " });
        text.push_str(&format!("'{example}', "));
    }
    text + &format!("regex used for validation is '{format}')")
}

fn lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn framed(text: &str, edge: fn(u8) -> bool, inner: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => edge(first) && edge(last) && bytes.iter().all(|&b| inner(b)),
        _ => false,
    }
}

fn is_label(text: &str) -> bool {
    framed(text, lower, |b| lower(b) || b == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_qualified_part(text: &str) -> bool {
    framed(text, |b| b.is_ascii_alphanumeric(), |b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// DNS-1123 label: lower case letters, digits and dashes, at most 63.
pub fn dns1123_label(name: &str) -> Messages {
    let mut messages = Vec::new();
    if name.len() > LABEL_MAX {
        messages.push(too_long(LABEL_MAX));
    }
    if !is_label(name) {
        messages.push(if is_subdomain(name) {
            "must not contain dots".into()
        } else {
            regex_message(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                LABEL_FORMAT,
                &["my-name", "123-abc"],
            )
        });
    }
    messages
}

/// DNS-1123 subdomain: labels joined by dots, at most 253.
pub fn dns1123_subdomain(name: &str) -> Messages {
    let mut messages = Vec::new();
    if name.len() > SUBDOMAIN_MAX {
        messages.push(too_long(SUBDOMAIN_MAX));
    }
    if !is_subdomain(name) {
        messages.push(regex_message(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            SUBDOMAIN_FORMAT,
            &["example.com"],
        ));
    }
    messages
}

/// A wildcard host such as `*.example.com`.
pub fn wildcard_subdomain(name: &str) -> Messages {
    if name.strip_prefix("*.").is_some_and(is_subdomain) && name.len() <= SUBDOMAIN_MAX {
        return Vec::new();
    }
    vec![regex_message(
        "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
        &format!(r"\*\.{SUBDOMAIN_FORMAT}"),
        &["*.example.com"],
    )]
}

/// DNS-1035 label: like a DNS-1123 label, but it starts with a letter.
pub fn dns1035_label(name: &str) -> Messages {
    let mut messages = Vec::new();
    if name.len() > LABEL_MAX {
        messages.push(too_long(LABEL_MAX));
    }
    if !is_label(name) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        messages.push(regex_message(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            LABEL_1035_FORMAT,
            &["my-name", "abc-123"],
        ));
    }
    messages
}

/// A name that only has to fit into a URL path (RBAC kinds and others).
pub fn path_segment(name: &str) -> Messages {
    if name == "." || name == ".." {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"].iter().filter(|s| name.contains(**s)).map(|s| format!("may not contain '{s}'")).collect()
}

/// A label or annotation key, a finalizer, a resource name: `[prefix/]name`.
pub fn qualified_name(name: &str) -> Messages {
    let mut messages = Vec::new();
    let mut parts = name.split('/');
    let name_part = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, None) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                messages.push(format!("prefix part {EMPTY}"));
            } else {
                messages.extend(dns1123_subdomain(prefix).into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            let format = regex_message(QUALIFIED_WORDS, QUALIFIED_FORMAT, &["MyName", "my.name", "123-abc"]);
            return vec![format!(
                "a qualified name {format} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name_part.is_empty() {
        messages.push(format!("name part {EMPTY}"));
    } else if name_part.len() > LABEL_MAX {
        messages.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !is_qualified_part(name_part) {
        let format = regex_message(QUALIFIED_WORDS, QUALIFIED_FORMAT, &["MyName", "my.name", "123-abc"]);
        messages.push(format!("name part {format}"));
    }
    messages
}

/// The value of a label: empty, or at most 63 letters, digits, `-`, `_`, `.` with letters or digits at the ends.
pub fn label_value(value: &str) -> Messages {
    let mut messages = Vec::new();
    if value.len() > LABEL_MAX {
        messages.push(too_long(LABEL_MAX));
    }
    if !value.is_empty() && !is_qualified_part(value) {
        messages.push(regex_message(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            &format!("({QUALIFIED_FORMAT})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    messages
}

/// The name of a container port (IANA service name): at most 15 of `[-a-z0-9]` with a letter.
pub fn port_name(name: &str) -> Messages {
    let mut messages = Vec::new();
    if name.len() > 15 {
        messages.push(too_long(15));
    }
    if name.is_empty() || !name.bytes().all(|b| lower(b) || b == b'-') {
        messages.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        messages.push("must contain at least one letter (a-z)".into());
    }
    if name.contains("--") {
        messages.push("must not contain consecutive hyphens".into());
    }
    if name.starts_with('-') || name.ends_with('-') {
        messages.push("must not begin or end with a hyphen".into());
    }
    messages
}

/// A port number.
pub fn port_number(port: i64) -> Messages {
    if (1..=65_535).contains(&port) { Vec::new() } else { vec![inclusive_range(1, 65_535)] }
}

/// A key of a ConfigMap or Secret, which becomes a file name.
pub fn config_map_key(key: &str) -> Messages {
    let mut messages = Vec::new();
    if key.len() > SUBDOMAIN_MAX {
        messages.push(too_long(SUBDOMAIN_MAX));
    }
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        messages.push(regex_message(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    } else {
        messages.extend(dot_dot(key));
    }
    messages
}

/// The name of an environment variable: printable ASCII without `=`, as since 1.32.
pub fn env_var_name(name: &str) -> Messages {
    if name.is_empty() {
        return vec![format!("environment variable name {EMPTY}")];
    }
    if name.bytes().any(|b| !(0x20..0x7f).contains(&b) || b == b'=') {
        return vec![
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .into(),
        ];
    }
    Vec::new()
}

fn dot_dot(value: &str) -> Messages {
    match value {
        "." | ".." => vec![format!("must not be '{value}'")],
        v if v.starts_with("..") => vec!["must not start with '..'".into()],
        _ => Vec::new(),
    }
}

/// An HTTP header name.
pub fn http_header_name(name: &str) -> Messages {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    vec![regex_message(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// A percentage such as `25%`.
pub fn percent(text: &str) -> Messages {
    let good = text.strip_suffix('%').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    if good {
        return Vec::new();
    }
    vec![regex_message(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

/// An IPv4 or IPv6 address.
pub fn ip_address(text: &str) -> Messages {
    match text.parse::<std::net::IpAddr>() {
        Ok(_) => Vec::new(),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()],
    }
}

/// Which rule a kind has for the names of its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// DNS-1123 subdomain, most kinds.
    Subdomain,
    /// DNS-1123 label: namespaces.
    Label,
    /// DNS-1035 label: services.
    Label1035,
    /// Path segment: RBAC kinds.
    PathSegment,
}

impl NameRule {
    /// The rule for the objects of a resource.
    pub fn of(group: &str, plural: &str) -> NameRule {
        match (group, plural) {
            ("", "namespaces") => NameRule::Label,
            ("", "services") => NameRule::Label1035,
            ("rbac.authorization.k8s.io", _) | ("certificates.k8s.io", _) => NameRule::PathSegment,
            _ => NameRule::Subdomain,
        }
    }

    /// What is wrong with a name.
    pub fn check(self, name: &str) -> Messages {
        match self {
            NameRule::Subdomain => dns1123_subdomain(name),
            NameRule::Label => dns1123_label(name),
            NameRule::Label1035 => dns1035_label(name),
            NameRule::PathSegment => path_segment(name),
        }
    }

    /// What is wrong with a prefix to which a suffix will be added: it may end in a dash.
    pub fn check_prefix(self, prefix: &str) -> Messages {
        match prefix.strip_suffix('-') {
            Some(stem) if !stem.is_empty() && self != NameRule::PathSegment => {
                self.check(&format!("{}a", stem.trim_end_matches('-')))
            }
            _ => self.check(prefix),
        }
    }
}

/// A name from `generateName` and random numbers of the caller: the prefix, cut to 58, and five letters.
pub fn generate(prefix: &str, random: [u32; SUFFIX_LENGTH]) -> String {
    let mut end = prefix.len().min(GENERATED_BASE_MAX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = prefix[..end].to_owned();
    name.push_str(&random_suffix(random));
    name
}

/// Five letters of the safe alphabet.
pub fn random_suffix(random: [u32; SUFFIX_LENGTH]) -> String {
    random.iter().map(|n| char::from(SUFFIX_LETTERS[*n as usize % SUFFIX_LETTERS.len()])).collect()
}

/// A number as a string of the safe alphabet, as the suffix of a pod template's hash.
pub fn safe_encode(number: u32) -> String {
    number
        .to_string()
        .bytes()
        .map(|b| char::from(SUFFIX_LETTERS[usize::from(b) % SUFFIX_LETTERS.len()]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn good_and_bad() {
        type Check = fn(&str) -> Messages;
        let long63 = "a".repeat(63);
        let long64 = "a".repeat(64);
        let cases: &[(Check, &[&str], &[&str])] = &[
            (dns1123_label, &["a", "a-b", "1", &long63], &["", "A", "a.b", "-a", "a-", "a_b", &long64, "é"]),
            (dns1123_subdomain, &["a", "a.b", "1.2", &long64], &["", "a..b", ".a", "a.", "A", "a_b", "a b"]),
            (dns1035_label, &["a", "a1"], &["1a", "", "a.b", &long64]),
            (path_segment, &["system:node", "A b"], &[".", "..", "a/b", "a%b"]),
            (
                qualified_name,
                &["a", "A.b_c", "x.io/y", "1"],
                &["", "/a", "a/", "a/b/c", "-a", "A.io/x", &long64],
            ),
            (label_value, &["", "a", "A_b.c"], &["-a", "a b", &long64, "."]),
            (port_name, &["http", "a1", "1a"], &["", "1", "a--b", "-a", "A", "aaaaaaaaaaaaaaaa"]),
            (config_map_key, &["a", ".a", "A_b"], &["", ".", "..", "..a", "a b", "a/b"]),
            (env_var_name, &["A", "a.b", "1", "a b"], &["", "a=b", "é", "\n"]),
            (percent, &["1%", "100%"], &["%", "1", "a%", "-1%"]),
            (ip_address, &["1.2.3.4", "::1"], &["", "1.2.3", "256.1.1.1", "01.2.3.4"]),
            (wildcard_subdomain, &["*.a.b"], &["a.b", "*", "*a.b"]),
        ];
        for (i, (check, good, bad)) in cases.iter().enumerate() {
            for text in *good {
                assert_eq!(check(text), Messages::new(), "case {i}: {text:?}");
            }
            for text in *bad {
                assert!(!check(text).is_empty(), "case {i}: {text:?}");
            }
        }
    }

    #[test]
    fn exact_words() {
        assert_eq!(
            dns1123_subdomain("Bad"),
            [
                r"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(
            dns1123_label("Bad"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(
            label_value("a b"),
            [
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            ]
        );
    }

    #[test]
    fn prefixes_may_end_in_a_dash() {
        assert!(NameRule::Subdomain.check_prefix("web-").is_empty());
        assert!(!NameRule::Subdomain.check("web-").is_empty());
        assert!(!NameRule::Subdomain.check_prefix("-").is_empty());
    }

    proptest! {
        #[test]
        fn generated_names_are_valid_and_short(prefix in "[a-z][a-z0-9-]{0,80}", random in any::<[u32; 5]>()) {
            let name = generate(&prefix, random);
            prop_assert!(name.len() <= 63);
            prop_assert!(dns1123_label(&name).is_empty());
        }

        #[test]
        fn checks_never_panic(text in ".{0,100}") {
            for check in [dns1123_label, dns1123_subdomain, dns1035_label, qualified_name, label_value, port_name] {
                check(&text);
            }
            NameRule::Label.check_prefix(&text);
            generate(&text, [0; 5]);
        }
    }
}
