//! The names of what belongs to an ordinal of a StatefulSet.

/// The pod of an ordinal.
pub(super) fn pod(set: &str, ordinal: i32) -> String {
    format!("{set}-{ordinal}")
}

/// The claim that a template makes for an ordinal.
pub(super) fn claim(template: &str, set: &str, ordinal: i32) -> String {
    format!("{template}-{set}-{ordinal}")
}

/// The ordinal of a pod, if its name is one of the set's.
pub(super) fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let number: i32 = digits.parse().ok().filter(|number| *number >= 0)?;
    // `web-01` and `web-+1` are other pods.
    (number.to_string() == digits).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_pod_it_is() {
        let table = [
            ("web-0", Some(0)),
            ("web-12", Some(12)),
            ("web", None),
            ("web-", None),
            ("web-01", None),
            ("web-+1", None),
            ("web-a-1", None),
            ("webs-1", None),
        ];
        for (name, expected) in table {
            assert_eq!(ordinal("web", name), expected, "{name}");
        }
        assert_eq!(ordinal("web", &pod("web", 7)), Some(7));
    }
}
