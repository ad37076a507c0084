//! When a container that ended is started again: the restart policy, and a back-off of 10 s doubling to 5 min.
//! Pure.

use jiff::{SignedDuration, Timestamp};

use crate::record::{ContainerRecord, Finished};

/// First pause.
const FIRST: i64 = 10;
/// Longest pause.
const LONGEST: i64 = 300;
/// A run of this many seconds makes the earlier ends forgotten.
const STABLE: i64 = 600;
/// The reason of an end that nobody saw: the process that ran the container was lost.
pub(crate) const LOST: &str = "ContainerStatusUnknown";

/// `restartPolicy`, of the pod or (for a sidecar) of the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Always,
    OnFailure,
    Never,
}

/// What becomes of a container that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is started again at this time (which may be past).
    At(Timestamp),
    /// It stays ended, well.
    Succeeded,
    /// It stays ended, badly.
    Failed,
}

impl Policy {
    pub(crate) fn parse(text: Option<&str>) -> Self {
        match text {
            Some("Never") => Policy::Never,
            Some("OnFailure") => Policy::OnFailure,
            _ => Policy::Always,
        }
    }
}

/// What the policy says about an end. `crashes` includes this end.
pub(crate) fn verdict(policy: Policy, finished: &Finished, crashes: u32) -> Verdict {
    let good = finished.code == 0;
    match policy {
        Policy::Never | Policy::OnFailure if good => Verdict::Succeeded,
        Policy::Never => Verdict::Failed,
        Policy::Always | Policy::OnFailure => Verdict::At(finished.at + pause(finished, crashes)),
    }
}

/// The pause before the next attempt: none after the first end, then 10 s, 20 s, … 300 s.
pub(crate) fn pause(finished: &Finished, crashes: u32) -> SignedDuration {
    if finished.reason == LOST {
        return SignedDuration::ZERO;
    }
    let doublings = match crashes {
        0 | 1 => return SignedDuration::ZERO,
        n => (n - 2).min(16),
    };
    SignedDuration::from_secs((FIRST << doublings).min(LONGEST))
}

/// Ends in a row, this one included.
pub(crate) fn crashes_after(record: &ContainerRecord, finished: &Finished) -> u32 {
    if finished.reason == LOST {
        return record.crashes;
    }
    let ran = finished.started.map_or(0, |started| finished.at.duration_since(started).as_secs());
    if ran >= STABLE { 1 } else { record.crashes.saturating_add(1) }
}

/// The words of `kubectl get pod` for a container that waits for its next attempt.
pub(crate) fn back_off_text(
    pause: SignedDuration,
    container: &str,
    pod: &str,
    namespace: &str,
    uid: &str,
) -> String {
    let seconds = pause.as_secs();
    let pause = match (seconds / 60, seconds % 60) {
        (0, s) => format!("{s}s"),
        (m, s) => format!("{m}m{s}s"),
    };
    format!("back-off {pause} restarting failed container={container} pod={pod}_{namespace}({uid})")
}

/// The pause after `failures` failures in a row of a step that is tried again: 10 s doubling to 5 min.
pub(crate) fn retry_pause(failures: u32) -> SignedDuration {
    SignedDuration::from_secs((FIRST << failures.saturating_sub(1).min(16)).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::ShimKey;

    fn end(code: i32, ran: i64, reason: &str) -> Finished {
        let at = Timestamp::from_second(10_000).unwrap();
        Finished {
            attempt: 0,
            code,
            reason: reason.into(),
            message: None,
            started: Some(at - SignedDuration::from_secs(ran)),
            at,
        }
    }

    #[test]
    fn policies() {
        use Policy::*;
        let at = Timestamp::from_second(10_000).unwrap();
        let table = [
            (Always, 0, Verdict::At(at)),
            (Always, 1, Verdict::At(at)),
            (OnFailure, 0, Verdict::Succeeded),
            (OnFailure, 1, Verdict::At(at)),
            (Never, 0, Verdict::Succeeded),
            (Never, 1, Verdict::Failed),
        ];
        for (policy, code, expected) in table {
            assert_eq!(verdict(policy, &end(code, 1, "Error"), 1), expected, "{policy:?} {code}");
        }
    }

    #[test]
    fn pauses_double_to_five_minutes() {
        let pauses: Vec<i64> = (0..9).map(|n| pause(&end(1, 1, "Error"), n).as_secs()).collect();
        assert_eq!(pauses, [0, 0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(pause(&end(1, 1, "Error"), u32::MAX).as_secs(), 300);
        assert_eq!(pause(&end(137, 1, LOST), 9).as_secs(), 0);
        assert_eq!(retry_pause(1).as_secs(), 10);
        assert_eq!(retry_pause(3).as_secs(), 40);
        assert_eq!(retry_pause(u32::MAX).as_secs(), 300);
    }

    #[test]
    fn a_long_run_forgets_earlier_ends() {
        let record = ContainerRecord {
            attempt: 5,
            shim: ShimKey::Oci,
            image: String::new(),
            image_id: String::new(),
            created: true,
            finished: None,
            last: None,
            crashes: 5,
        };
        assert_eq!(crashes_after(&record, &end(1, 3, "Error")), 6);
        assert_eq!(crashes_after(&record, &end(1, 600, "Error")), 1);
        assert_eq!(crashes_after(&record, &end(137, 3, LOST)), 5);
    }

    #[test]
    fn the_text_is_kubelets() {
        let text = back_off_text(SignedDuration::from_secs(80), "c", "p", "n", "u");
        assert_eq!(text, "back-off 1m20s restarting failed container=c pod=p_n(u)");
    }
}
