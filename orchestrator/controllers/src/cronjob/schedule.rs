//! Schedules of CronJobs: five fields (minute, hour, day of the month, month, day of the week) or a word with `@`.
//!
//! The rules are those of `robfig/cron`, which Kubernetes uses: a day matches when both day fields match, or when
//! one does and neither is a star; a time that a change of the clock leaves out does not happen.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// A schedule that never comes, such as 30 February, is given up after this many days.
const HORIZON_DAYS: u32 = 5 * 366;

/// Why a schedule cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ScheduleError {
    /// There are not five fields.
    #[error("expected exactly 5 fields, found {0}")]
    Fields(usize),
    /// A field is malformed or out of range.
    #[error("failed to parse {0:?}")]
    Field(String),
    /// A word with `@` that is not known.
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    /// The zone has no place in the schedule.
    #[error("cannot use TZ or CRON_TZ in schedule, use timeZone field instead")]
    Zone,
}

/// When something is to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Schedule {
    /// At the times that match.
    At(Fields),
    /// Again and again after this time.
    Every(SignedDuration),
}

/// The numbers that match, as bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    minutes: u64,
    hours: u64,
    days: Field,
    months: u64,
    weekdays: Field,
}

/// A field of which it matters whether it is a star.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    bits: u64,
    star: bool,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    /// Reads a schedule.
    pub(super) fn parse(text: &str) -> Result<Self, ScheduleError> {
        let text = text.trim();
        if text.contains("TZ=") {
            return Err(ScheduleError::Zone);
        }
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            word if word.starts_with('@') => {
                let every = word.strip_prefix("@every ").and_then(duration);
                return every.map(Self::Every).ok_or_else(|| ScheduleError::Descriptor(word.to_owned()));
            }
            fields => fields,
        };
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(ScheduleError::Fields(fields.len()));
        };
        let mut weekdays = field(weekdays, 0, 7, &WEEKDAYS)?;
        // 7 is Sunday too.
        weekdays.bits |= weekdays.bits >> 7 & 1;
        Ok(Self::At(Fields {
            minutes: field(minutes, 0, 59, &[])?.bits,
            hours: field(hours, 0, 23, &[])?.bits,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, &MONTHS)?.bits,
            weekdays,
        }))
    }

    /// The first time after `after`, by the clocks of `zone`.
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(period) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*period).ok()
            }
            Self::At(fields) => fields.next(after, zone),
        }
    }
}

impl Fields {
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let minute = after.as_second().div_euclid(60) + 1;
        let mut time = Timestamp::from_second(minute * 60).ok()?;
        let mut days = 0;
        while days < HORIZON_DAYS {
            let local = zone.to_datetime(time);
            if !self.matches_day(local.date()) {
                days += 1;
                let midnight = local.date().checked_add(1.day()).ok()?.at(0, 0, 0, 0);
                // Where the clock goes back at midnight the day may begin before we are.
                let next = zone.to_timestamp(midnight).ok()?;
                time = next.max(time.checked_add(SignedDuration::from_mins(1)).ok()?);
            } else if self.hours >> local.hour() & 1 == 0 {
                time = time.checked_add(SignedDuration::from_mins(i64::from(60 - local.minute()))).ok()?;
                days += u32::from(zone.to_datetime(time).date() != local.date());
            } else if self.minutes >> local.minute() & 1 == 0 {
                time = time.checked_add(SignedDuration::from_mins(1)).ok()?;
                days += u32::from(zone.to_datetime(time).date() != local.date());
            } else {
                return Some(time);
            }
        }
        None
    }

    fn matches_day(&self, date: Date) -> bool {
        let month = self.months >> date.month() & 1 == 1;
        let day = self.days.bits >> date.day() & 1 == 1;
        let weekday = self.weekdays.bits >> date.weekday().to_sunday_zero_offset() & 1 == 1;
        let days = if self.days.star || self.weekdays.star { day && weekday } else { day || weekday };
        month && days
    }
}

fn field(text: &str, low: u32, high: u32, names: &[&str]) -> Result<Field, ScheduleError> {
    let mut field = Field { bits: 0, star: false };
    for part in text.split(',') {
        let (bits, star) =
            part_bits(part, low, high, names).ok_or_else(|| ScheduleError::Field(text.to_owned()))?;
        field.bits |= bits;
        field.star |= star;
    }
    Ok(field)
}

/// `*`, `3`, `mon`, `1-5`, each with `/step`; and whether it is a star.
fn part_bits(part: &str, low: u32, high: u32, names: &[&str]) -> Option<(u64, bool)> {
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(step.parse::<u32>().ok().filter(|step| *step > 0)?)),
        None => (part, None),
    };
    let number = |text: &str| {
        let lower = text.to_lowercase();
        let named = names.iter().position(|name| *name == lower);
        // Months are named from 1 on, days of the week from 0 on.
        let named = named.and_then(|place| u32::try_from(place).ok()).map(|place| place + low);
        named.or_else(|| text.parse().ok()).filter(|number| (low..=high).contains(number))
    };
    let (first, last) = match (range, range.split_once('-')) {
        // A star among the days of the week means 0 to 6.
        ("*" | "?", _) => (low, if high == 7 { 6 } else { high }),
        (_, Some((first, last))) => (number(first)?, number(last)?),
        (_, None) if step.is_some() => (number(range)?, high),
        (_, None) => (number(range)?, number(range)?),
    };
    if first > last {
        return None;
    }
    let step = usize::try_from(step.unwrap_or(1)).ok()?;
    let bits = (first..=last).step_by(step).fold(0, |bits, number| bits | 1 << number);
    Some((bits, matches!(range, "*" | "?") && step == 1))
}

/// A duration as Go writes it: `1h30m`, `90s`; at least a second.
fn duration(text: &str) -> Option<SignedDuration> {
    let mut rest = text.trim();
    let mut total = SignedDuration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len() - digits);
        let seconds = match &rest[digits..digits + unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return None,
        };
        total = total.checked_add(SignedDuration::try_from_secs_f64(amount * seconds).ok()?)?;
        rest = &rest[digits + unit..];
    }
    Some(SignedDuration::from_secs(total.as_secs())).filter(|total| *total >= SignedDuration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str, zone: &str) -> String {
        let zone = TimeZone::get(zone).unwrap();
        let next = Schedule::parse(schedule).unwrap().next(after.parse().unwrap(), &zone);
        next.map_or_else(|| "never".to_owned(), |time| time.to_string())
    }

    #[test]
    fn the_next_time() {
        let table = [
            ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ("* * * * *", "2026-01-01T00:00:59.9Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"),
            ("5/20 * * * *", "2026-01-01T00:26:00Z", "2026-01-01T00:45:00Z"),
            ("30 4 1,15 * 5", "2026-01-01T05:00:00Z", "2026-01-02T04:30:00Z"),
            ("30 4 15 * *", "2026-01-01T05:00:00Z", "2026-01-15T04:30:00Z"),
            ("0 0 * * mon-fri", "2026-01-03T00:00:00Z", "2026-01-05T00:00:00Z"),
            ("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("0 0 29 FEB *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 30 2 *", "2026-01-01T00:00:00Z", "never"),
            ("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"),
            ("@weekly", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("@yearly", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("@every 1h30m", "2026-01-01T00:00:00.5Z", "2026-01-01T01:30:00Z"),
            ("59 23 31 12 ?", "2026-01-01T00:00:00Z", "2026-12-31T23:59:00Z"),
        ];
        for (schedule, after, expected) in table {
            assert_eq!(next(schedule, after, "UTC"), expected, "{schedule} after {after}");
        }
    }

    #[test]
    fn clocks_that_are_changed() {
        // In New York on 8 March 2026 the clock goes from 2:00 to 3:00, on 1 November from 2:00 to 1:00.
        let table = [
            ("30 9 * * *", "2026-03-07T15:00:00Z", "2026-03-08T13:30:00Z"),
            ("30 2 * * *", "2026-03-08T05:00:00Z", "2026-03-09T06:30:00Z"),
            ("30 3 * * *", "2026-03-08T05:00:00Z", "2026-03-08T07:30:00Z"),
            ("30 1 * * *", "2026-11-01T04:00:00Z", "2026-11-01T05:30:00Z"),
            ("30 1 * * *", "2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z"),
            ("0 0 * * *", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"),
        ];
        for (schedule, after, expected) in table {
            assert_eq!(next(schedule, after, "America/New_York"), expected, "{schedule} after {after}");
        }
        assert_eq!(next("30 9 * * *", "2026-01-01T00:00:00Z", "Asia/Kolkata"), "2026-01-01T04:00:00Z");
    }

    #[test]
    fn what_is_refused() {
        let table = [
            ("* * * *", ScheduleError::Fields(4)),
            ("60 * * * *", ScheduleError::Field("60".into())),
            ("5-1 * * * *", ScheduleError::Field("5-1".into())),
            ("*/0 * * * *", ScheduleError::Field("*/0".into())),
            ("* * 0 * *", ScheduleError::Field("0".into())),
            ("* * * mon *", ScheduleError::Field("mon".into())),
            ("@often", ScheduleError::Descriptor("@often".into())),
            ("@every 1x", ScheduleError::Descriptor("@every 1x".into())),
            ("TZ=UTC * * * * *", ScheduleError::Zone),
        ];
        for (schedule, expected) in table {
            assert_eq!(Schedule::parse(schedule), Err(expected), "{schedule}");
        }
    }
}
