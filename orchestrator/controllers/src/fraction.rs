//! Numbers that users write as a count or as a percentage of a total.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// What becomes of a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    Up,
    Down,
}

/// `value` of `total`; what is negative or malformed is nothing.
pub(crate) fn scaled(value: &IntOrString, total: i32, rounding: Rounding) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let hundredths = percent.max(0).saturating_mul(i64::from(total));
            let whole = match rounding {
                Rounding::Up => hundredths.saturating_add(99) / 100,
                Rounding::Down => hundredths / 100,
            };
            i32::try_from(whole).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_percentages() {
        let text = |text: &str| IntOrString::String(text.to_owned());
        let table = [
            (IntOrString::Int(3), 10, 3, 3),
            (IntOrString::Int(-3), 10, 0, 0),
            (text("25%"), 10, 3, 2),
            (text("100%"), 7, 7, 7),
            (text("1%"), 0, 0, 0),
            (text("much"), 10, 0, 0),
        ];
        for (value, total, up, down) in table {
            let both = (scaled(&value, total, Rounding::Up), scaled(&value, total, Rounding::Down));
            assert_eq!(both, (up, down), "{value:?} of {total}");
        }
    }
}
