//! As much DER (X.690) as a certificate needs. Pure.

/// Tag of a SEQUENCE.
const SEQUENCE: u8 = 0x30;

/// Tag, length, content.
pub(super) fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(length) if length < 0x80 => out.push(length),
        _ => {
            let length = content.len().to_be_bytes();
            let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
            out.push(0x80 | u8::try_from(length.len()).unwrap_or_default());
            out.extend(length);
        }
    }
    out.extend_from_slice(content);
    out
}

/// A SEQUENCE of encoded values.
pub(super) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    value(SEQUENCE, &parts.concat())
}

/// A non-negative INTEGER from big-endian bytes.
pub(super) fn integer(bytes: &[u8]) -> Vec<u8> {
    let mut content: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
    if content.first().is_none_or(|first| *first >= 0x80) {
        content.insert(0, 0);
    }
    value(0x02, &content)
}

/// A BIT STRING of whole bytes.
pub(super) fn bits(bytes: &[u8]) -> Vec<u8> {
    value(0x03, &[&[0], bytes].concat())
}

/// A BIT STRING of named bits (bit 0 first), without the zeros at its end.
pub(super) fn named_bits(set: &[u8]) -> Vec<u8> {
    let Some(last) = set.iter().max() else { return value(0x03, &[0]) };
    let mut content = vec![7 - last % 8];
    content.resize(usize::from(last / 8) + 2, 0);
    for bit in set {
        content[usize::from(bit / 8) + 1] |= 0x80 >> (bit % 8);
    }
    value(0x03, &content)
}

/// An OBJECT IDENTIFIER from its arcs, at least two.
pub(super) fn oid(arcs: &[u32]) -> Vec<u8> {
    let mut content = Vec::new();
    let first = arcs.first().zip(arcs.get(1)).map(|(one, two)| one * 40 + two);
    for arc in first.into_iter().chain(arcs.iter().skip(2).copied()) {
        let mut digits = vec![u8::try_from(arc & 0x7f).unwrap_or_default()];
        let mut rest = arc >> 7;
        while rest > 0 {
            digits.push(0x80 | u8::try_from(rest & 0x7f).unwrap_or_default());
            rest >>= 7;
        }
        content.extend(digits.into_iter().rev());
    }
    value(0x06, &content)
}

/// A moment: UTCTime until 2049, GeneralizedTime later (RFC 5280, 4.1.2.5).
pub(super) fn time(moment: jiff::Timestamp) -> Vec<u8> {
    let moment = moment.to_zoned(jiff::tz::TimeZone::UTC);
    let digits = moment.strftime("%Y%m%d%H%M%SZ").to_string();
    match moment.year() {
        1950..=2049 => value(0x17, digits.get(2..).unwrap_or_default().as_bytes()),
        _ => value(0x18, digits.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(value(0x04, &[7; 2]), [4, 2, 7, 7]);
        assert_eq!(value(0x04, &[0; 200])[..3], [4, 0x81, 200]);
        assert_eq!(value(0x04, &[0; 300])[..4], [4, 0x82, 1, 44]);
        assert_eq!(integer(&[0, 0x80]), [2, 2, 0, 0x80]);
        assert_eq!(integer(&[0, 0x7f]), [2, 1, 0x7f]);
        assert_eq!(integer(&[0]), [2, 1, 0]);
        // From RFC 5280's text: digitalSignature and keyEncipherment; decipherOnly is in a second byte.
        assert_eq!(named_bits(&[0, 2]), [3, 2, 5, 0xa0]);
        assert_eq!(named_bits(&[8]), [3, 3, 7, 0, 0x80]);
        assert_eq!(oid(&[1, 2, 840, 10045, 4, 3, 2]), [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]);
        assert_eq!(oid(&[2, 5, 29, 15]), [6, 3, 0x55, 0x1d, 0x0f]);
        assert_eq!(
            time("2026-01-02T03:04:05Z".parse().unwrap()),
            [&[0x17, 13], &b"260102030405Z"[..]].concat()
        );
        assert_eq!(
            time("2050-01-02T03:04:05Z".parse().unwrap()),
            [&[0x18, 15], &b"20500102030405Z"[..]].concat()
        );
    }
}
