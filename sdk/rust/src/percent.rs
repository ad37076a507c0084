//! Percent-encoding of paths and queries (RFC 3986, section 2.1; `+` in queries as the URL standard's forms have it).

/// Whether `+` stands for a space.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plus {
    Space,
    Itself,
}

/// The text that an encoded one means. What is no valid escape stays as it is.
pub(crate) fn decode(text: &str, plus: Plus) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).and_then(|digits| Some((hex(digits[0])?, hex(digits[1])?)));
        match (bytes[at], escape) {
            (b'%', Some((high, low))) => {
                decoded.push(high << 4 | low);
                at += 2;
            }
            (b'+', _) if plus == Plus::Space => decoded.push(b' '),
            (byte, _) => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8(decoded).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// The pairs of a query, decoded, in their order.
pub(crate) fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name, Plus::Space), decode(value, Plus::Space))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_once() {
        let table = [
            ("a%20b", "a b"),
            ("%C3%A9", "é"),
            ("%2541", "%41"),
            ("100%", "100%"),
            ("%zz", "%zz"),
            ("%+1", "%+1"),
            ("%é", "%é"),
            ("%ff", "\u{fffd}"),
            ("a+b", "a+b"),
        ];
        for (encoded, expected) in table {
            assert_eq!(decode(encoded, Plus::Itself), expected, "{encoded}");
        }
        assert_eq!(decode("a+b%2B", Plus::Space), "a b+");
    }

    #[test]
    fn queries_are_pairs() {
        let found: Vec<_> = pairs("a=1&&b&a=x%26y=z&%63=+").collect();
        let expected = [("a", "1"), ("b", ""), ("a", "x&y=z"), ("c", " ")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
