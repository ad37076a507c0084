//! Text into tokens.

use super::parser::ParseError;

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Int(i64),
    /// One more than the largest integer: only a minus in front makes it a number.
    LeastInt,
    Uint(u64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    Name(String),
    /// Operators and brackets.
    Symbol(&'static str),
}

const SYMBOLS: [&str; 25] = [
    "&&", "||", "==", "!=", "<=", ">=", ".", ",", ":", "?", "(", ")", "[", "]", "{", "}", "<", ">", "+", "-",
    "*", "/", "%", "!", "`",
];

/// Tokens with their places, in bytes.
pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, ParseError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        if c.is_whitespace() {
            at += c.len_utf8();
        } else if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if let Some((token, length)) = string(rest).map_err(|what| ParseError { at, what })? {
            tokens.push((at, token));
            at += length;
        } else if c.is_ascii_digit() || c == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
            let (token, length) =
                number(rest).ok_or_else(|| ParseError { at, what: "invalid number".into() })?;
            tokens.push((at, token));
            at += length;
        } else if c.is_ascii_alphabetic() || c == '_' {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            tokens.push((at, Token::Name(rest[..end].to_owned())));
            at += end;
        } else if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            tokens.push((at, Token::Symbol(symbol)));
            at += symbol.len();
        } else {
            return Err(ParseError { at, what: format!("unexpected character {c:?}") });
        }
    }
    Ok(tokens)
}

fn number(text: &str) -> Option<(Token, usize)> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let end = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
        let value = u64::from_str_radix(&hex[..end], 16).ok()?;
        let unsigned = hex[end..].starts_with(['u', 'U']);
        let token = if unsigned { Token::Uint(value) } else { Token::Int(i64::try_from(value).ok()?) };
        return Some((token, 2 + end + usize::from(unsigned)));
    }
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut end = digits(0);
    let mut float = false;
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        float = true;
        end += 1 + digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits((end + 1 + sign).min(bytes.len()));
        if exponent > 0 {
            float = true;
            end += 1 + sign + exponent;
        }
    }
    if float {
        return Some((Token::Double(text[..end].parse().ok()?), end));
    }
    if matches!(bytes.get(end), Some(b'u' | b'U')) {
        return Some((Token::Uint(text[..end].parse().ok()?), end + 1));
    }
    let value: u64 = text[..end].parse().ok()?;
    let token = match i64::try_from(value) {
        Ok(value) => Token::Int(value),
        Err(_) if value == 1 << 63 => Token::LeastInt,
        Err(_) => return None,
    };
    Some((token, end))
}

/// A text or bytes, with the length of what was read; none when something else begins here.
fn string(text: &str) -> Result<Option<(Token, usize)>, String> {
    let prefix = text.find(|c: char| !"rRbB".contains(c)).unwrap_or(text.len());
    let marks = text[..prefix].to_ascii_lowercase();
    let quoted = &text[prefix..];
    if prefix > 2 || !quoted.starts_with(['"', '\'']) || marks == "rr" || marks == "bb" {
        return Ok(None);
    }
    let quote =
        ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| quoted.starts_with(quote)).unwrap_or("\"");
    let (raw, bytes) = (marks.contains('r'), marks.contains('b'));
    let mut out = Vec::new();
    let mut at = quote.len();
    loop {
        let rest = &quoted[at..];
        let Some(c) = rest.chars().next() else { return Err("unterminated string".into()) };
        if rest.starts_with(quote) {
            at += quote.len();
            break;
        }
        if c == '\n' && quote.len() == 1 {
            return Err("unterminated string".into());
        }
        if c == '\\' && !raw {
            at += escape(rest, bytes, &mut out)?;
        } else {
            out.extend_from_slice(&rest.as_bytes()[..c.len_utf8()]);
            at += c.len_utf8();
        }
    }
    let token = if bytes {
        Token::Bytes(out)
    } else {
        Token::Text(String::from_utf8(out).map_err(|_| "invalid string".to_owned())?)
    };
    Ok(Some((token, prefix + at)))
}

/// Reads an escape; returns its length.
fn escape(text: &str, bytes: bool, out: &mut Vec<u8>) -> Result<usize, String> {
    let bad = || "invalid escape in string".to_owned();
    let c = text[1..].chars().next().ok_or_else(bad)?;
    let number = |from: usize, digits: usize, radix: u32| {
        text.get(from..from + digits)
            .and_then(|digits| u32::from_str_radix(digits, radix).ok())
            .ok_or_else(bad)
    };
    let simple = match c {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'v' => '\u{b}',
        '\\' | '\'' | '"' | '`' | '?' => c,
        _ => {
            let (value, length) = match c {
                'x' | 'X' => (number(2, 2, 16)?, 4),
                'u' if !bytes => (number(2, 4, 16)?, 6),
                'U' if !bytes => (number(2, 8, 16)?, 10),
                '0'..='3' => (number(1, 3, 8)?, 4),
                _ => return Err(bad()),
            };
            if bytes {
                out.push(u8::try_from(value).map_err(|_| bad())?);
            } else {
                let c = char::from_u32(value).ok_or_else(bad)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            return Ok(length);
        }
    };
    out.extend_from_slice(simple.encode_utf8(&mut [0; 4]).as_bytes());
    Ok(2)
}
