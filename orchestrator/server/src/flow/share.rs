//! How the server's seats are divided among the priority levels: nominal shares, and what is lent and borrowed
//! when some are idle and others wait (KEP-1040, section on borrowing). Pure.

use serde_json::Value;

/// What a PriorityLevelConfiguration says about seats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) exempt: bool,
    shares: u64,
    lendable_percent: u64,
    /// None borrows without a limit.
    borrowing_percent: Option<u64>,
}

/// One level in a division.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    nominal: u32,
    /// It never gets fewer.
    least: u32,
    /// It never gets more.
    most: u32,
    /// Seats in use and waited for at the worst moment of late.
    demand: u32,
}

impl Share {
    /// From the object.
    pub(super) fn of(object: &Value) -> Self {
        let spec = &object["spec"];
        let exempt = spec["type"] == "Exempt";
        let part = &spec[if exempt { "exempt" } else { "limited" }];
        let absent = if exempt { 0 } else { 30 };
        Share {
            exempt,
            shares: part["nominalConcurrencyShares"].as_u64().unwrap_or(absent),
            lendable_percent: part["lendablePercent"].as_u64().unwrap_or_default().min(100),
            borrowing_percent: part["borrowingLimitPercent"].as_u64(),
        }
    }

    /// What it may have, given its nominal seats.
    pub(super) fn need(self, nominal: u32, demand: u32) -> Need {
        let percent = |percent: u64| whole((u64::from(nominal) * percent).saturating_add(50) / 100);
        Need {
            nominal,
            least: nominal - percent(self.lendable_percent).min(nominal),
            most: self.borrowing_percent.map_or(u32::MAX, |most| nominal.saturating_add(percent(most))),
            demand,
        }
    }
}

/// Seats of each level in proportion to its shares, rounded up.
pub(super) fn nominal(total: u32, shares: &[Share]) -> Vec<u32> {
    let sum: u64 = shares.iter().map(|share| share.shares).sum::<u64>().max(1);
    shares.iter().map(|share| whole((u64::from(total) * share.shares).div_ceil(sum))).collect()
}

/// Divides all nominal seats anew. Everybody first gets what he uses of his own and what he does not lend; what is
/// left goes to those who need more, in proportion to what is nominally theirs, and then back to where it came from.
pub(super) fn allot(needs: &[Need]) -> Vec<u32> {
    let mut seats: Vec<u32> = needs.iter().map(|need| need.demand.clamp(need.least, need.nominal)).collect();
    let given: u64 = seats.iter().map(|seats| u64::from(*seats)).sum();
    let all: u64 = needs.iter().map(|need| u64::from(need.nominal)).sum();
    let mut spare = all.saturating_sub(given);
    spare = fill(&mut seats, spare, needs, |need| need.demand.min(need.most));
    fill(&mut seats, spare, needs, |need| need.nominal);
    seats
}

/// Gives out `spare` seats up to what each wants; returns what nobody wants.
fn fill(seats: &mut [u32], mut spare: u64, needs: &[Need], wants: impl Fn(&Need) -> u32) -> u64 {
    loop {
        let open = |i: usize, seats: &[u32]| wants(&needs[i]) > seats[i];
        let weight = |need: &Need| u64::from(need.nominal.max(1));
        let weights: u64 = (0..needs.len()).filter(|i| open(*i, seats)).map(|i| weight(&needs[i])).sum();
        if weights == 0 || spare == 0 {
            return spare;
        }
        let round = spare;
        for (i, need) in needs.iter().enumerate() {
            if open(i, seats) && spare > 0 {
                // At least one, so that every round gets on.
                let part = whole((round * weight(need) / weights).max(1).min(spare));
                let part = part.min(wants(need) - seats[i]);
                seats[i] += part;
                spare -= u64::from(part);
            }
        }
    }
}

fn whole(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn nominal_seats_follow_shares() {
        let share = |shares: u64| {
            Share::of(&json!({"spec": {"type": "Limited", "limited":
            {"nominalConcurrencyShares": shares}}}))
        };
        let exempt = Share::of(&json!({"spec": {"type": "Exempt"}}));
        // The default levels of a server with 600 seats.
        let shares = [30, 40, 10, 40, 100, 20, 5].map(share);
        assert_eq!(nominal(600, &shares), [74, 98, 25, 98, 245, 49, 13]);
        assert_eq!(nominal(10, &[exempt, share(1), share(1)]), [0, 5, 5]);
        assert_eq!(nominal(10, &[exempt]), [0]);
    }

    fn need(nominal: u32, least: u32, most: u32, demand: u32) -> Need {
        Need { nominal, least, most, demand }
    }

    #[test]
    fn lending() {
        let table = [
            (vec![need(10, 5, 99, 0), need(10, 10, 99, 0)], vec![10, 10], "all idle: everybody has his own"),
            (vec![need(10, 5, 99, 0), need(10, 10, 99, 40)], vec![5, 15], "one lends what he may"),
            (vec![need(10, 10, 99, 0), need(10, 10, 99, 40)], vec![10, 10], "one lends nothing"),
            (vec![need(10, 0, 99, 4), need(10, 10, 12, 40)], vec![8, 12], "a limit on borrowing"),
            (vec![need(10, 0, 99, 40), need(10, 0, 99, 40)], vec![10, 10], "all busy"),
            (
                vec![need(30, 0, 999, 0), need(10, 0, 999, 99), need(20, 0, 999, 99)],
                vec![0, 20, 40],
                "borrowers in proportion",
            ),
        ];
        for (needs, expected, what) in table {
            assert_eq!(allot(&needs), expected, "{what}");
        }
    }

    proptest! {
        #[test]
        fn nobody_gets_less_than_is_his(levels in prop::collection::vec((0u32..200, 0u32..=100, prop::option::of(0u32..300), 0u32..500), 1..8)) {
            let needs: Vec<Need> = levels.iter().map(|(nominal, lendable, borrowing, demand)| {
                Share { exempt: false, shares: 1, lendable_percent: u64::from(*lendable),
                    borrowing_percent: borrowing.map(u64::from) }.need(*nominal, *demand)
            }).collect();
            let seats = allot(&needs);
            let sum = |list: Vec<u32>| list.iter().sum::<u32>();
            prop_assert!(sum(seats.clone()) <= sum(needs.iter().map(|need| need.nominal).collect()));
            for (seats, need) in seats.iter().zip(&needs) {
                prop_assert!(*seats >= need.demand.min(need.least) && *seats >= need.least, "{seats} {need:?}");
                prop_assert!(*seats <= need.most.max(need.nominal), "{seats} {need:?}");
            }
        }
    }
}
