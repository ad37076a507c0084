//! Resource quantities (`500m`, `1Gi`, `1e3`): parsing, the canonical form, arithmetic.
//! Follows Kubernetes' `apimachinery/pkg/api/resource`: nano precision, rounding away from zero, capped at 2^63-1.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, Neg, Sub};
use std::str::FromStr;

use serde_json::Value;

const NANOS: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANOS;
const DECIMAL: [(&str, u32); 10] =
    [("n", 0), ("u", 3), ("m", 6), ("", 9), ("k", 12), ("M", 15), ("G", 18), ("T", 21), ("P", 24), ("E", 27)];
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// How a quantity likes to be written; kept through arithmetic from the left operand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// `1500m`, `12M`.
    #[default]
    DecimalSi,
    /// `1Gi`.
    BinarySi,
    /// `12e6`.
    DecimalExponent,
}

/// A number with a preferred format; equality and order look at the number alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not the shape of a quantity at all.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Shape,
    /// The number has no digits or several points.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// The suffix is none of those known.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Zero, in decimal format.
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    /// Parses the text of a quantity.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        text.parse()
    }

    /// A quantity from JSON: a string or a number.
    pub fn from_value(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::String(text) => text.parse(),
            Value::Number(number) => number.to_string().parse(),
            _ => Err(QuantityError::Shape),
        }
    }

    /// A whole number of units.
    pub fn from_units(units: i64, format: Format) -> Self {
        Quantity { nanos: i128::from(units) * NANOS, format }
    }

    /// A number of thousandths, as used for CPU.
    pub fn from_milli(milli: i64) -> Self {
        Quantity { nanos: i128::from(milli) * 1_000_000, format: Format::DecimalSi }
    }

    /// Another number in the same format.
    pub fn with_nanos(self, nanos: i128) -> Self {
        Quantity { nanos, ..self }
    }

    /// Whole units, rounded up.
    pub fn value(self) -> i64 {
        self.scaled(NANOS)
    }

    /// Thousandths, rounded up; capped at `i64::MAX`.
    pub fn milli_value(self) -> i64 {
        self.scaled(1_000_000)
    }

    /// Billionths, exact.
    pub fn nanos(self) -> i128 {
        self.nanos
    }

    /// The preferred format.
    pub fn format(self) -> Format {
        self.format
    }

    /// Whether the number is zero.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether the number is below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether the number has no fraction.
    pub fn is_integer(self) -> bool {
        self.nanos % NANOS == 0
    }

    /// Rounds away from zero, as Kubernetes does for `Value` and `MilliValue`.
    fn scaled(self, unit: i128) -> i64 {
        let rounded = div_away(self.nanos, unit);
        i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
    }
}

fn div_away(n: i128, unit: i128) -> i128 {
    let extra = i128::from(n % unit != 0) * n.signum();
    n / unit + extra
}

fn cap(nanos: i128) -> i128 {
    nanos.clamp(-MAX, MAX)
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Quantity;

    fn add(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: cap(self.nanos + other.nanos), format }
    }
}

impl Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: cap(self.nanos - other.nanos), format }
    }
}

impl Neg for Quantity {
    type Output = Quantity;

    fn neg(self) -> Quantity {
        Quantity { nanos: -self.nanos, format: self.format }
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Quantity>>(iter: I) -> Quantity {
        iter.fold(Quantity::ZERO, Add::add)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        if number.is_empty() {
            return Err(QuantityError::Shape);
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Number);
        }
        let (factor, format) = suffix_factor(suffix)?;
        let magnitude = scale(whole, fraction, factor);
        Ok(Quantity { nanos: if negative { -magnitude } else { magnitude }, format })
    }
}

/// What one unit of a suffix is worth: `mantissa × 10^exponent` nanos.
#[derive(Clone, Copy)]
struct Factor {
    mantissa: i128,
    exponent: i64,
}

fn suffix_factor(suffix: &str) -> Result<(Factor, Format), QuantityError> {
    if let Some((_, power)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Ok((Factor { mantissa: 1, exponent: i64::from(*power) }, Format::DecimalSi));
    }
    if let Some((_, bits)) = BINARY.iter().find(|(s, _)| *s == suffix) {
        return Ok((Factor { mantissa: 1 << bits, exponent: 9 }, Format::BinarySi));
    }
    let Some(digits) = suffix.strip_prefix(['e', 'E']) else {
        let known = |c: char| "eEinumkKMGTP+-".contains(c) || c.is_ascii_digit();
        return Err(if suffix.chars().all(known) { QuantityError::Suffix } else { QuantityError::Shape });
    };
    let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(digits);
    if unsigned.is_empty() || !unsigned.bytes().all(|b| b.is_ascii_digit()) {
        return Err(QuantityError::Suffix);
    }
    let exponent: i64 = digits.parse().map_err(|_| QuantityError::Suffix)?;
    let exponent = exponent.clamp(-1_000_000, 1_000_000);
    Ok((Factor { mantissa: 1, exponent: 9 + exponent }, Format::DecimalExponent))
}

/// `whole.fraction × factor`, rounded up to a nano and capped.
fn scale(whole: &str, fraction: &str, factor: Factor) -> i128 {
    let digits = whole.bytes().chain(fraction.bytes()).map(|b| i128::from(b - b'0'));
    let mut exponent = factor.exponent - fraction.len() as i64;
    let mut mantissa: i128 = 0;
    let mut inexact = false;
    let mut dropped: i64 = 0;
    for digit in digits {
        // 19 digits are kept; the rest only says whether to round up.
        if mantissa < 10_i128.pow(18) && dropped == 0 {
            mantissa = mantissa * 10 + digit;
        } else {
            dropped += 1;
            inexact |= digit != 0;
        }
    }
    exponent += dropped;
    let mut value = mantissa * factor.mantissa;
    if value == 0 {
        return i128::from(inexact);
    }
    while exponent > 0 && value < MAX {
        value = value.saturating_mul(10);
        exponent -= 1;
    }
    while exponent < 0 && value > 0 {
        inexact |= value % 10 != 0;
        value /= 10;
        exponent += 1;
    }
    cap(value + i128::from(inexact))
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that loses nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = self.format == Format::BinarySi
            && self.is_integer()
            && !(-1024 * NANOS < self.nanos && self.nanos < 1024 * NANOS);
        if binary {
            return write_binary(self.nanos / NANOS, f);
        }
        write_decimal(self.nanos, self.format, f)
    }
}

fn write_binary(mut units: i128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut power = 0;
    while power < BINARY.len() && units % 1024 == 0 {
        units /= 1024;
        power += 1;
    }
    let suffix = if power == 0 { "" } else { BINARY[power - 1].0 };
    write!(f, "{units}{suffix}")
}

fn write_decimal(mut nanos: i128, format: Format, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if nanos == 0 {
        return f.write_str("0");
    }
    let mut step = 0;
    while step + 1 < DECIMAL.len() && nanos % 1000 == 0 {
        nanos /= 1000;
        step += 1;
    }
    match (format, step as i64 * 3 - 9) {
        (_, 0) => write!(f, "{nanos}"),
        (Format::DecimalExponent, exponent) => write!(f, "{nanos}e{exponent}"),
        _ => write!(f, "{nanos}{}", DECIMAL[step].0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn canonical_forms() {
        let cases = [
            ("0", "0"),
            ("0n", "0"),
            ("0Ki", "0"),
            ("1", "1"),
            ("+1", "1"),
            ("-1", "-1"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("5.", "5"),
            ("1.25", "1250m"),
            ("1000", "1k"),
            ("1100", "1100"),
            ("1000k", "1M"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1024Mi", "1Gi"),
            ("1500Mi", "1500Mi"),
            ("0.5Gi", "512Mi"),
            ("0.5Ki", "512"),
            ("1.5Gi", "1536Mi"),
            ("0.1Ki", "102400m"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e6", "12e6"),
            ("1e-3", "1e-3"),
            ("1E", "1E"),
            ("100u", "100u"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("-0.1n", "-1n"),
            ("10000000000000000000", "9223372036854775807"),
            ("100E", "9223372036854775807"),
            ("1e100", "9223372036854775807"),
            ("8Ei", "9223372036854775807"),
            ("7Ei", "7Ei"),
            ("0.000000000000000000000000000001", "1n"),
        ];
        for (text, canonical) in cases {
            let parsed = Quantity::parse(text).unwrap();
            assert_eq!(parsed.to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn refused() {
        for text in
            ["", "a", "--1", "1 ", " 1", "1x", "1.2.3", ".", "1kk", "1e", "1e3k", "1KI", "1K", "1ki", "1mi"]
        {
            assert!(Quantity::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn values_round_up() {
        let q = |t: &str| Quantity::parse(t).unwrap();
        assert_eq!(q("1100m").value(), 2);
        assert_eq!(q("-1100m").value(), -2);
        assert_eq!(q("100u").milli_value(), 1);
        assert_eq!(q("2").milli_value(), 2000);
        assert_eq!(q("1Gi").value(), 1 << 30);
        assert_eq!(q("8Ei").milli_value(), i64::MAX);
    }

    #[test]
    fn arithmetic_keeps_the_left_format() {
        let q = |t: &str| Quantity::parse(t).unwrap();
        assert_eq!((q("1Gi") + q("1024Mi")).to_string(), "2Gi");
        assert_eq!((Quantity::ZERO + q("1Gi")).to_string(), "1Gi");
        assert_eq!((q("1") - q("250m")).to_string(), "750m");
        assert!(q("1Gi") > q("1G"));
        assert_eq!(q("1000m"), q("1"));
        assert_eq!(Quantity::from_value(&serde_json::json!(2)).unwrap(), q("2"));
        assert_eq!(Quantity::from_value(&serde_json::json!(0.5)).unwrap(), q("500m"));
        assert!(Quantity::from_value(&serde_json::json!(true)).is_err());
    }

    proptest! {
        #[test]
        fn canonical_text_is_a_fixed_point(n in -1_000_000_000_000_i64..1_000_000_000_000, s in 0_usize..15) {
            let suffix = ["n","u","m","","k","M","G","Ki","Mi","Gi","e3","e-3","e1","E2","e-6"][s];
            let parsed = Quantity::parse(&format!("{n}{suffix}")).unwrap();
            let text = parsed.to_string();
            let again = Quantity::parse(&text).unwrap();
            prop_assert_eq!(again, parsed);
            prop_assert_eq!(again.to_string(), text);
        }

        #[test]
        fn never_panics(text in ".{0,40}") {
            let _ = Quantity::parse(&text).map(|q| (q.to_string(), q.value(), q.milli_value()));
        }

        #[test]
        fn adding_then_taking_away(a in any::<i32>(), b in any::<i32>()) {
            let (a, b) = (Quantity::from_milli(a.into()), Quantity::from_milli(b.into()));
            prop_assert_eq!(a + b - b, a);
        }
    }
}
