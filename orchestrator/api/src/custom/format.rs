//! The formats of strings and numbers that schemas may name (`apiserver/validation/formats.go`); others say nothing.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use regex::Regex;

use super::schema::Type;

/// A known format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    name: &'static str,
    fits: Check,
}

type Check = fn(&str) -> bool;

const STRINGS: &[(&str, Check)] = &[
    ("bsonobjectid", |text| text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit())),
    ("uri", uri),
    ("email", email),
    ("hostname", hostname),
    ("ipv4", |text| text.parse::<Ipv4Addr>().is_ok()),
    ("ipv6", |text| text.parse::<Ipv6Addr>().is_ok()),
    ("cidr", cidr),
    ("mac", mac),
    ("uuid", |text| uuid(text, None)),
    ("uuid3", |text| uuid(text, Some('3'))),
    ("uuid4", |text| uuid(text, Some('4'))),
    ("uuid5", |text| uuid(text, Some('5'))),
    ("isbn", |text| isbn10(text) || isbn13(text)),
    ("isbn10", isbn10),
    ("isbn13", isbn13),
    ("creditcard", credit_card),
    ("ssn", |text| matches(&SSN, text)),
    ("hexcolor", |text| matches(&HEX_COLOR, text)),
    ("rgbcolor", |text| matches(&RGB_COLOR, text)),
    ("byte", |text| BASE64_STANDARD.decode(text).is_ok()),
    ("password", |_| true),
    ("date", |text| text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()),
    ("duration", |text| crate::time::parse_duration(text).is_some()),
    ("date-time", date_time),
];

impl Format {
    /// The format of a type under that name; none where it says nothing.
    pub(super) fn parse(ty: Option<Type>, name: &str) -> Option<Format> {
        let number = |name| Some(Format { name, fits: |_| true });
        match (ty, name) {
            (_, "") => None,
            (Some(Type::Integer), "int32") => number("int32"),
            (Some(Type::String) | None, _) => {
                let plain = name.replace('-', "");
                let found = STRINGS.iter().find(|(known, _)| known.replace('-', "") == plain);
                found.map(|(name, fits)| Format { name, fits: *fits })
            }
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        self.name
    }

    pub(super) fn fits(self, text: &str) -> bool {
        (self.fits)(text)
    }
}

macro_rules! expressions {
    ($($name:ident = $text:literal;)*) => {
        $(static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($text).expect("a constant expression"));)*
    };
}

expressions! {
    SSN = r"^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$";
    HEX_COLOR = r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$";
    RGB_COLOR = r"^rgb\(\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*,\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*,\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*\)$";
    CREDIT_CARD = r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11})$";
}

fn matches(expression: &LazyLock<Regex>, text: &str) -> bool {
    expression.is_match(text)
}

/// A scheme with something behind it, or an absolute path (Go's `url.ParseRequestURI`).
fn uri(text: &str) -> bool {
    let clean = !text.is_empty() && !text.chars().any(|c| c.is_control() || c == ' ');
    let scheme = text.split_once(':').is_some_and(|(scheme, rest)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
            && rest.starts_with('/')
    });
    clean && (text.starts_with('/') || scheme)
}

fn email(text: &str) -> bool {
    // A name may stand before an address in angle brackets.
    let address = text.rsplit_once('<').and_then(|(_, rest)| rest.strip_suffix('>')).unwrap_or(text);
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let plain = |c: char| !c.is_whitespace() && !"()<>[]:;@\\,\"".contains(c);
    !local.is_empty()
        && !domain.is_empty()
        && local.chars().all(plain)
        && domain.chars().all(plain)
        && [local, domain].iter().all(|part| part.split('.').all(|label| !label.is_empty()))
}

fn hostname(text: &str) -> bool {
    let label = |label: &str| {
        let inner = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    !name.is_empty() && name.len() <= 253 && name.split('.').all(label)
}

fn cidr(text: &str) -> bool {
    let Some((address, prefix)) = text.split_once('/') else { return false };
    let plain = !prefix.is_empty() && prefix.len() <= 3 && prefix.bytes().all(|b| b.is_ascii_digit());
    let Some(prefix) = prefix.parse::<u8>().ok().filter(|_| plain) else { return false };
    address.parse::<Ipv4Addr>().is_ok() && prefix <= 32
        || address.parse::<Ipv6Addr>().is_ok() && prefix <= 128
}

fn mac(text: &str) -> bool {
    let pairs = |separator: char| {
        let parts: Vec<&str> = text.split(separator).collect();
        matches!(parts.len(), 6 | 8 | 20) && parts.iter().all(|part| hex(part, 2))
    };
    let dotted: Vec<&str> = text.split('.').collect();
    pairs(':') || pairs('-') || matches!(dotted.len(), 3 | 4 | 10) && dotted.iter().all(|part| hex(part, 4))
}

fn hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn uuid(text: &str, version: Option<char>) -> bool {
    let plain: String = text.chars().filter(|c| *c != '-').collect();
    let dashes = text.match_indices('-').all(|(at, _)| matches!(at, 8 | 13 | 18 | 23) || text.len() < 36);
    let variant = plain.chars().nth(16).is_some_and(|c| "89abAB".contains(c));
    let wanted =
        version.is_none_or(|version| plain.chars().nth(12) == Some(version) && (version == '3' || variant));
    hex(&plain, 32) && dashes && wanted
}

fn digits(text: &str) -> Vec<u32> {
    text.chars().filter(|c| !matches!(c, '-' | ' ')).map(|c| c.to_digit(10).unwrap_or(99)).collect()
}

fn isbn10(text: &str) -> bool {
    let plain: String = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    let value = |(at, c): (usize, char)| match c {
        'X' | 'x' if at == 9 => Some(10),
        c => c.to_digit(10),
    };
    let values: Option<Vec<u32>> = plain.chars().enumerate().map(value).collect();
    let sum = |values: Vec<u32>| {
        values.iter().zip((1..=10).rev()).map(|(value, weight)| value * weight).sum::<u32>()
    };
    values.filter(|values| values.len() == 10).is_some_and(|values| sum(values) % 11 == 0)
}

fn isbn13(text: &str) -> bool {
    let values = digits(text);
    let sum: u32 = values.iter().zip([1, 3].into_iter().cycle()).map(|(value, weight)| value * weight).sum();
    values.len() == 13 && values.iter().all(|value| *value < 10) && sum.is_multiple_of(10)
}

fn credit_card(text: &str) -> bool {
    let plain: String = text.chars().filter(char::is_ascii_digit).collect();
    let double = |(at, value): (usize, u32)| match at % 2 {
        0 => value,
        _ => value * 2 / 10 + value * 2 % 10,
    };
    let sum: u32 = digits(&plain).into_iter().rev().enumerate().map(double).sum();
    CREDIT_CARD.is_match(&plain) && sum.is_multiple_of(10)
}

/// RFC 3339, where the separator may be in lower case.
fn date_time(text: &str) -> bool {
    let separated = text.get(10..11).is_some_and(|separator| separator.eq_ignore_ascii_case("t"));
    separated && text.to_ascii_uppercase().parse::<jiff::Timestamp>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits() {
        let table = [
            ("date-time", "2024-02-29T10:00:00Z", true),
            ("date-time", "2024-02-30T10:00:00Z", false),
            ("datetime", "2024-02-29 10:00:00", false),
            ("date", "2024-02-29", true),
            ("date", "2024-2-9", false),
            ("duration", "1h30m", true),
            ("duration", "soon", false),
            ("ipv4", "10.0.0.1", true),
            ("ipv4", "10.0.0", false),
            ("ipv6", "::1", true),
            ("cidr", "10.0.0.0/8", true),
            ("cidr", "10.0.0.0/33", false),
            ("mac", "00:00:5e:00:53:01", true),
            ("mac", "00:00:5e", false),
            ("uri", "https://a.example/b", true),
            ("uri", "no uri", false),
            ("email", "a@b.example", true),
            ("email", "a@", false),
            ("hostname", "a.b-c.example", true),
            ("hostname", "-a", false),
            ("uuid", "a8098c1a-f86e-11da-bd1a-00112444be1e", true),
            ("uuid4", "a8098c1a-f86e-11da-bd1a-00112444be1e", false),
            ("byte", "aGk=", true),
            ("byte", "a", false),
            ("isbn", "0321751043", true),
            ("isbn", "978-0321751041", true),
            ("isbn13", "978-0321751042", false),
            ("hexcolor", "#ff00AA", true),
            ("rgbcolor", "rgb(1, 2, 300)", false),
            ("creditcard", "4111-1111-1111-1111", true),
            ("password", "anything", true),
        ];
        for (name, text, expected) in table {
            let format = Format::parse(Some(Type::String), name).unwrap();
            assert_eq!(format.fits(text), expected, "{name} {text}");
        }
        assert!(Format::parse(Some(Type::String), "unheard-of").is_none());
        assert!(Format::parse(Some(Type::Object), "date").is_none());
    }
}
