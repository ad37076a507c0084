//! Times as the API writes them (RFC 3339 in seconds or microseconds) and durations as kubectl prints them.
//! There is no clock here: the present is an argument.

use jiff::Timestamp;

/// Parses an RFC 3339 time such as `2024-05-01T10:00:00Z` or with a fraction or offset.
pub fn parse(text: &str) -> Option<Timestamp> {
    // jiff also takes forms that RFC 3339 does not have (a space, no seconds, a zone name).
    let bytes = text.as_bytes();
    let shaped = bytes.len() >= 20 && bytes[10] == b'T' && bytes[13] == b':' && bytes[16] == b':';
    if !shaped || text.contains('[') {
        return None;
    }
    text.parse().ok()
}

/// `metav1.Time`: whole seconds in UTC.
pub fn format(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metav1.MicroTime`: six digits after the point, in UTC.
pub fn format_micro(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// `metav1.Duration`: nanoseconds as Go writes them, such as `1h0m30.5s`.
pub fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let all = nanos.unsigned_abs();
    let (hours, minutes) = (all / 3_600_000_000_000, all / 60_000_000_000 % 60);
    let (seconds, rest) = (all / 1_000_000_000 % 60, all % 1_000_000_000);
    let fraction =
        if rest == 0 { String::new() } else { format!(".{rest:09}").trim_end_matches('0').to_owned() };
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}{fraction}s"),
        (0, _) => format!("{sign}{minutes}m{seconds}{fraction}s"),
        _ => format!("{sign}{hours}h{minutes}m{seconds}{fraction}s"),
    }
}

/// Whole seconds from `earlier` to `later`, rounded towards zero.
pub fn seconds_between(earlier: Timestamp, later: Timestamp) -> i64 {
    let nanos = later.as_nanosecond() - earlier.as_nanosecond();
    i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX)
}

/// A duration in at most two units, as in kubectl's Age column: `5s`, `3m20s`, `4h`, `2d3h`, `400d`.
/// Small negative durations (clocks that differ) print as `0s`, larger ones as `<invalid>`.
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        i64::MIN..-1 => "<invalid>".into(),
        -1 => "0s".into(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

fn two(large: i64, large_unit: &str, small: i64, small_unit: &str) -> String {
    match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit}{small}{small_unit}"),
    }
}

/// Nanoseconds of a duration as Go writes it: `1h30m`, `-1.5s`, `250ms`; each unit may come in any order.
/// Nothing for what overflows or is no such text.
pub fn parse_duration(text: &str) -> Option<i64> {
    const UNITS: [(&str, i64); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("\u{b5}s", 1_000),
        ("\u{3bc}s", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut nanos: i64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &after[..end])?;
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let parts: i128 = if fraction.is_empty() { 0 } else { format!("{fraction:0<9.9}").parse().ok()? };
        let below = i64::try_from(parts * i128::from(*unit) / 1_000_000_000).ok()?;
        nanos = nanos.checked_add(whole.checked_mul(*unit)?)?.checked_add(below)?;
        rest = &after[end..];
    }
    Some(sign * nanos)
}

/// The age of something that began at the RFC 3339 time `since`; `<unknown>` where there is none.
pub fn age(since: Option<&str>, now: Timestamp) -> String {
    match since.and_then(parse) {
        Some(since) => human_duration(seconds_between(since, now)),
        None => "<unknown>".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_kubectl_prints_them() {
        let (m, h, d, y) = (60, 3600, 86_400, 365 * 86_400);
        let cases = [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (1, "1s"),
            (119, "119s"),
            (2 * m, "2m"),
            (2 * m + 1, "2m1s"),
            (9 * m + 59, "9m59s"),
            (10 * m + 59, "10m"),
            (3 * h - 1, "179m"),
            (3 * h, "3h"),
            (3 * h + m, "3h1m"),
            (8 * h - 1, "7h59m"),
            (8 * h + m, "8h"),
            (48 * h - 1, "47h"),
            (48 * h, "2d"),
            (49 * h, "2d1h"),
            (8 * d - 1, "7d23h"),
            (8 * d + h, "8d"),
            (2 * y - 1, "729d"),
            (2 * y, "2y"),
            (2 * y + d, "2y1d"),
            (8 * y + d, "8y"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn times_go_round() {
        let time = parse("2024-05-01T10:00:00.123456789+02:00").unwrap();
        assert_eq!(format(time), "2024-05-01T08:00:00Z");
        assert_eq!(format_micro(time), "2024-05-01T08:00:00.123456Z");
        for bad in
            ["", "now", "2024-05-01", "2024-05-01 10:00:00Z", "2024-05-01T10:00:00", "2024-13-01T10:00:00Z"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_as_go_writes_them() {
        let table = [
            ("1h30m", Some(5_400_000_000_000)),
            ("-1.5s", Some(-1_500_000_000)),
            ("250ms", Some(250_000_000)),
            ("1m2h", Some(7_260_000_000_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("", None),
            ("-", None),
            ("5", None),
            ("5 s", None),
            (".s", None),
            ("9999999999h", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_duration(text), expected, "{text:?}");
        }
    }

    #[test]
    fn ages() {
        let now = parse("2024-05-01T10:00:00Z").unwrap();
        assert_eq!(age(Some("2024-05-01T09:55:00Z"), now), "5m");
        assert_eq!(age(None, now), "<unknown>");
        assert_eq!(age(Some("yesterday"), now), "<unknown>");
    }
}
