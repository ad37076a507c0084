//! Questions to a name server and its answers, on the wire (RFC 1035): addresses of IPv4 only, as
//! pods have. Pure.

use std::net::Ipv4Addr;

const TYPE_A: u16 = 1;
const CLASS_IN: u16 = 1;
const HEADER: usize = 12;

/// What a name server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Addresses; none: the name exists without one.
    Addresses(Vec<Ipv4Addr>),
    /// No such name.
    NoSuchName,
    /// Too long for UDP: ask by TCP.
    Truncated,
    /// The server failed or refused; its code.
    Failed(u8),
}

/// Why something is not a question or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("not a host name")]
    Name,
    #[error("the answer is cut short")]
    Short,
    #[error("the answer belongs to another question")]
    Other,
}

/// The question for the addresses of `name` (absolute, with or without its last dot).
pub(crate) fn question(id: u16, name: &str) -> Result<Vec<u8>, WireError> {
    let mut packet = Vec::with_capacity(HEADER + name.len() + 6);
    // Recursion desired; one question.
    for word in [id, 0x0100, 1, 0, 0, 0] {
        packet.extend_from_slice(&word.to_be_bytes());
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || name.len() > 253 {
        return Err(WireError::Name);
    }
    for label in name.split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..=63).contains(length))
            .ok_or(WireError::Name)?;
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            return Err(WireError::Name);
        }
        packet.push(length);
        packet.extend_from_slice(label.as_bytes());
    }
    packet.push(0);
    for word in [TYPE_A, CLASS_IN] {
        packet.extend_from_slice(&word.to_be_bytes());
    }
    Ok(packet)
}

/// Reads the answer to the question that was sent with `id`.
pub(crate) fn answer(id: u16, packet: &[u8]) -> Result<Answer, WireError> {
    let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let header = |at| word(at).ok_or(WireError::Short);
    let flags = header(2)?;
    if header(0)? != id || flags & 0x8000 == 0 {
        return Err(WireError::Other);
    }
    if flags & 0x0200 != 0 {
        return Ok(Answer::Truncated);
    }
    match (flags & 0xf) as u8 {
        0 => {}
        3 => return Ok(Answer::NoSuchName),
        code => return Ok(Answer::Failed(code)),
    }
    let mut at = HEADER;
    for _ in 0..header(4)? {
        at = skip_name(packet, at)? + 4;
    }
    let mut addresses = Vec::new();
    for _ in 0..header(6)? {
        at = skip_name(packet, at)?;
        let (kind, class, length) = (header(at)?, header(at + 2)?, usize::from(header(at + 8)?));
        let data = packet.get(at + 10..at + 10 + length).ok_or(WireError::Short)?;
        if let (TYPE_A, CLASS_IN, Ok(octets)) = (kind, class, <[u8; 4]>::try_from(data)) {
            addresses.push(Ipv4Addr::from(octets));
        }
        at += 10 + length;
    }
    Ok(Answer::Addresses(addresses))
}

/// Where the name that begins at `at` ends. A pointer to elsewhere is its last part.
fn skip_name(packet: &[u8], mut at: usize) -> Result<usize, WireError> {
    loop {
        match *packet.get(at).ok_or(WireError::Short)? {
            0 => return Ok(at + 1),
            length if length & 0xc0 == 0xc0 => return Ok(at + 2),
            length => at += usize::from(length) + 1,
        }
    }
}

/// Names to try for `name`, in order, as a resolver with search domains does.
pub(crate) fn candidates(name: &str, search: &[String], ndots: u8) -> Vec<String> {
    if let Some(absolute) = name.strip_suffix('.') {
        return vec![absolute.to_owned()];
    }
    let searched = search.iter().map(|domain| format!("{name}.{}", domain.trim_matches('.')));
    let dots = name.bytes().filter(|byte| *byte == b'.').count();
    if dots >= usize::from(ndots) {
        std::iter::once(name.to_owned()).chain(searched).collect()
    } else {
        searched.chain(std::iter::once(name.to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer as a server writes it: the question repeated, a CNAME, then addresses by pointer.
    fn reply(id: u16, name: &str, flags: u16, addresses: &[Ipv4Addr]) -> Vec<u8> {
        let mut packet = question(id, name).unwrap();
        packet[2..4].copy_from_slice(&(0x8000 | flags).to_be_bytes());
        packet[6..8].copy_from_slice(&(addresses.len() as u16 + 1).to_be_bytes());
        packet.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 4, 1, b'x', 0xc0, 12]);
        for address in addresses {
            packet.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
            packet.extend_from_slice(&address.octets());
        }
        packet
    }

    #[test]
    fn addresses_are_found_behind_an_alias() {
        let addresses = [Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(10, 128, 0, 3)];
        let packet = reply(7, "hello.default.svc.cluster.local", 0, &addresses);
        assert_eq!(answer(7, &packet), Ok(Answer::Addresses(addresses.to_vec())));
        assert_eq!(answer(8, &packet), Err(WireError::Other));
        assert_eq!(answer(7, &question(7, "a").unwrap()), Err(WireError::Other));
    }

    #[test]
    fn refusals_are_told_apart() {
        assert_eq!(answer(1, &reply(1, "a", 3, &[])), Ok(Answer::NoSuchName));
        assert_eq!(answer(1, &reply(1, "a", 2, &[])), Ok(Answer::Failed(2)));
        assert_eq!(answer(1, &reply(1, "a", 0x0200, &[])), Ok(Answer::Truncated));
    }

    #[test]
    fn names_that_cannot_be_asked() {
        for name in ["", ".", "a..b", "a b", &"x".repeat(64), &"x.".repeat(130)] {
            assert_eq!(question(1, name), Err(WireError::Name), "{name}");
        }
    }

    #[test]
    fn search_domains_and_dots() {
        let search = ["default.svc.cluster.local".to_owned(), "svc.cluster.local.".to_owned()];
        assert_eq!(
            candidates("hello", &search, 5),
            ["hello.default.svc.cluster.local", "hello.svc.cluster.local", "hello"]
        );
        assert_eq!(candidates("a.b", &search, 1)[0], "a.b");
        assert_eq!(candidates("a.b.", &search, 5), ["a.b"]);
    }

    proptest::proptest! {
        #[test]
        fn no_packet_panics(packet: Vec<u8>, id: u16) {
            let _ = answer(id, &packet);
        }

        #[test]
        fn a_cut_answer_is_short_or_whole(cut in 0usize..80) {
            let packet = reply(9, "hello.default", 0, &[Ipv4Addr::LOCALHOST]);
            let cut = cut.min(packet.len());
            let read = answer(9, &packet[..cut]);
            proptest::prop_assert_eq!(read.is_ok(), cut == packet.len());
        }
    }
}
