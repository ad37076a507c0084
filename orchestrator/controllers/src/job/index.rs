//! Sets of completion indexes in the form in which a Job's status shows them: `1,3-5,7`.

use std::fmt;

/// A set of indexes, kept as ranges that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes {
    /// First and last of each range, in order.
    ranges: Vec<(i32, i32)>,
}

impl Indexes {
    /// Reads the text of a status or of a rule, up to the first malformed part; indexes from `limit` on are left
    /// out, for a Job may have shrunk.
    pub(super) fn parse(text: &str, limit: i32) -> Self {
        let mut indexes = Self::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) else { break };
            if first >= limit {
                break;
            }
            indexes.insert_range(first, last.min(limit - 1));
        }
        indexes
    }

    fn insert_range(&mut self, first: i32, last: i32) {
        if first > last {
            return;
        }
        // The ranges that overlap the new one or touch it become one with it.
        let begin = self.ranges.partition_point(|range| range.1 < first.saturating_sub(1));
        let end = self.ranges.partition_point(|range| range.0 <= last.saturating_add(1));
        let merged = self.ranges[begin..end]
            .iter()
            .fold((first, last), |merged, range| (merged.0.min(range.0), merged.1.max(range.1)));
        self.ranges.splice(begin..end, [merged]);
    }

    /// Adds one index.
    pub(super) fn insert(&mut self, index: i32) {
        self.insert_range(index, index);
    }

    pub(super) fn contains(&self, index: i32) -> bool {
        let place = self.ranges.partition_point(|range| range.1 < index);
        self.ranges.get(place).is_some_and(|range| range.0 <= index)
    }

    /// How many there are.
    pub(super) fn len(&self) -> i32 {
        self.ranges.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// How many of these are in `other` too.
    pub(super) fn common(&self, other: &Self) -> i32 {
        let overlap = |one: &(i32, i32), two: &(i32, i32)| (one.1.min(two.1) - one.0.max(two.0) + 1).max(0);
        self.ranges.iter().map(|one| other.ranges.iter().map(|two| overlap(one, two)).sum::<i32>()).sum()
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                // Two neighbours are written one by one, as Kubernetes does.
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_and_back() {
        // (text, limit, text again, how many)
        let table = [
            ("", 10, "", 0),
            ("3", 10, "3", 1),
            ("0,1", 10, "0,1", 2),
            ("0-2,4,6-9", 10, "0-2,4,6-9", 8),
            ("0-2,4,6-9", 7, "0-2,4,6", 5),
            ("1,2,3", 10, "1-3", 3),
            ("2,x,5", 10, "2", 1),
        ];
        for (text, limit, again, count) in table {
            let indexes = Indexes::parse(text, limit);
            assert_eq!((indexes.to_string().as_str(), indexes.len()), (again, count), "{text}");
        }
    }

    proptest! {
        #[test]
        fn it_is_a_set(numbers in proptest::collection::vec(0..40, 0..60), others in proptest::collection::vec(0..40, 0..60)) {
            let make = |numbers: &[i32]| {
                let mut indexes = Indexes::default();
                numbers.iter().for_each(|number| indexes.insert(*number));
                indexes
            };
            let (one, two) = (make(&numbers), make(&others));
            for index in 0..40 {
                prop_assert_eq!(one.contains(index), numbers.contains(&index));
            }
            let both = (0..40).filter(|index| numbers.contains(index) && others.contains(index)).count();
            prop_assert_eq!(usize::try_from(one.common(&two)).unwrap(), both);
            prop_assert_eq!(Indexes::parse(&one.to_string(), 40), one);
        }
    }
}
