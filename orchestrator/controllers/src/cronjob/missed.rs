//! Which time of a schedule is due, when some were missed while nobody looked.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::schedule::Schedule;

/// More missed times than this are worth a warning.
const MANY: i64 = 100;

/// The last time that is due, and whether too many were missed before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) time: Timestamp,
    pub(super) too_many: bool,
}

/// The most recent time of `schedule` after `since` and not after `now`.
pub(super) fn due(schedule: &Schedule, zone: &TimeZone, since: Timestamp, now: Timestamp) -> Option<Due> {
    let first = schedule.next(since, zone).filter(|first| *first <= now)?;
    let Some(second) = schedule.next(first, zone).filter(|second| *second <= now) else {
        return Some(Due { time: first, too_many: false });
    };
    // A schedule of every minute may have been missed for years: it is not walked through from the start.
    let period = second.duration_since(first).as_secs().max(1);
    let missed = now.duration_since(first).as_secs() / period + 1;
    let skipped = first.checked_add(SignedDuration::from_secs((missed - 2).max(0) * period)).ok();
    let mut time = skipped.filter(|skipped| *skipped <= now && missed > MANY).unwrap_or(first);
    while let Some(next) = schedule.next(time, zone).filter(|next| *next <= now) {
        time = next;
    }
    Some(Due { time, too_many: missed > MANY })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_is_due() {
        // (schedule, since, now, due, too many)
        let table = [
            ("0 * * * *", "2026-01-01T00:10:00Z", "2026-01-01T00:59:59Z", None, false),
            (
                "0 * * * *",
                "2026-01-01T00:10:00Z",
                "2026-01-01T01:00:00Z",
                Some("2026-01-01T01:00:00Z"),
                false,
            ),
            (
                "0 * * * *",
                "2026-01-01T00:10:00Z",
                "2026-01-01T05:30:00Z",
                Some("2026-01-01T05:00:00Z"),
                false,
            ),
            (
                "0 0 * * 1-5",
                "2026-01-01T00:10:00Z",
                "2026-01-12T12:00:00Z",
                Some("2026-01-12T00:00:00Z"),
                false,
            ),
            ("* * * * *", "2020-01-01T00:00:00Z", "2026-01-01T00:00:30Z", Some("2026-01-01T00:00:00Z"), true),
            ("0 0 30 2 *", "2020-01-01T00:00:00Z", "2026-01-01T00:00:30Z", None, false),
        ];
        for (schedule, since, now, expected, too_many) in table {
            let parsed = Schedule::parse(schedule).unwrap();
            let found = due(&parsed, &TimeZone::UTC, since.parse().unwrap(), now.parse().unwrap());
            let expected = expected.map(|time| Due { time: time.parse().unwrap(), too_many });
            assert_eq!(found, expected, "{schedule} {since} {now}");
        }
    }
}
