//! How many pods each ReplicaSet of a Deployment should have: during a rollout, and when the size changes.
//!
//! All functions change only the `replicas` of the members they are given; nothing is written here.

use super::member::{DESIRED_REPLICAS, MAX_REPLICAS, Member, Strategy, Wish};

fn total(members: &[Member<'_>], new: Option<&Member<'_>>) -> i32 {
    members.iter().chain(new).fold(0, |sum, member| sum.saturating_add(member.replicas))
}

/// The size of the new ReplicaSet that leaves no more pods than the surge allows.
pub(super) fn new_size(wish: &Wish<'_>, old: &[Member<'_>], current: i32) -> i32 {
    match wish.strategy {
        Strategy::Recreate => wish.replicas,
        Strategy::RollingUpdate => {
            let room = wish.ceiling() - (total(old, None) + current);
            if room <= 0 { current } else { current + room.min(wish.replicas - current) }
        }
    }
}

/// A step up of the new ReplicaSet, or down when the Deployment has shrunk.
pub(super) fn step_new(wish: &Wish<'_>, old: &[Member<'_>], new: &mut Member<'_>) -> bool {
    let size = if new.replicas > wish.replicas { wish.replicas } else { new_size(wish, old, new.replicas) };
    if size == new.replicas {
        return false;
    }
    new.scale(size, wish);
    true
}

/// A step down of the old ReplicaSets: first pods that are not available anyway, then as many others as the
/// available ones allow.
pub(super) fn step_old(wish: &Wish<'_>, old: &mut [Member<'_>], new: &Member<'_>) -> bool {
    if total(old, None) == 0 {
        return false;
    }
    let new_unavailable = new.replicas - new.lasting();
    let most = total(old, Some(new)) - wish.floor() - new_unavailable;
    if most <= 0 {
        return false;
    }
    old.sort_by(|one, other| one.age_order().cmp(&other.age_order()));
    let unhealthy = clean_up_unhealthy(wish, old, most);
    scale_down_available(wish, old, new) || unhealthy
}

fn clean_up_unhealthy(wish: &Wish<'_>, old: &mut [Member<'_>], most: i32) -> bool {
    let mut left = most;
    for member in old {
        let unavailable = member.replicas - member.lasting();
        if left <= 0 || unavailable <= 0 {
            continue;
        }
        let down = left.min(unavailable);
        member.scale(member.replicas - down, wish);
        left -= down;
    }
    left < most
}

fn scale_down_available(wish: &Wish<'_>, old: &mut [Member<'_>], new: &Member<'_>) -> bool {
    let available: i32 = old.iter().chain(Some(new)).map(Member::lasting).sum();
    let mut left = available - wish.floor();
    let before = left;
    for member in old.iter_mut().filter(|member| member.replicas > 0) {
        if left <= 0 {
            break;
        }
        let down = left.min(member.replicas);
        member.scale(member.replicas - down, wish);
        left -= down;
    }
    left < before
}

/// Every old ReplicaSet to none.
pub(super) fn all_to_zero(wish: &Wish<'_>, old: &mut [Member<'_>]) -> bool {
    let mut any = false;
    for member in old.iter_mut().filter(|member| member.replicas > 0) {
        member.scale(0, wish);
        any = true;
    }
    any
}

/// Has the size of the Deployment changed since its ReplicaSets were last scaled?
pub(super) fn is_scaling(wish: &Wish<'_>, members: &[&Member<'_>]) -> bool {
    members
        .iter()
        .filter(|member| member.replicas > 0)
        .filter_map(|member| member.number(DESIRED_REPLICAS))
        .any(|desired| desired != i64::from(wish.replicas))
}

/// Spreads a new size of the Deployment: over the one that is active, or in proportion over all of a rollout.
pub(super) fn resize<'a>(wish: &Wish<'_>, old: &mut [Member<'a>], new: Option<&mut Member<'a>>) {
    let mut all: Vec<&mut Member<'a>> = old.iter_mut().chain(new).collect();
    let new_is_last = all.last().map(|member| member.name.clone());
    if let Some(only) = active_or_latest(&mut all, new_is_last.as_deref()) {
        if only.replicas != wish.replicas {
            only.scale(wish.replicas, wish);
        }
        return;
    }
    let saturated = all.last().is_some_and(|member| is_saturated(wish, member));
    if saturated && new_is_last.is_some() {
        let count = all.len() - 1;
        for member in all.into_iter().take(count).filter(|member| member.replicas > 0) {
            member.scale(0, wish);
        }
    } else if wish.strategy == Strategy::RollingUpdate {
        in_proportion(wish, all);
    }
}

/// The only one with pods; the newest when none has any; none when several have.
fn active_or_latest<'m, 'a>(
    all: &'m mut [&mut Member<'a>],
    newest: Option<&str>,
) -> Option<&'m mut Member<'a>> {
    let active: Vec<usize> =
        all.iter().enumerate().filter(|(_, member)| member.replicas > 0).map(|(at, _)| at).collect();
    match active.as_slice() {
        [only] => Some(&mut *all[*only]),
        [] => all.iter_mut().find(|member| Some(member.name.as_str()) == newest).map(|member| &mut **member),
        _ => None,
    }
}

/// Has the new ReplicaSet all the pods of the Deployment, all available?
fn is_saturated(wish: &Wish<'_>, new: &Member<'_>) -> bool {
    new.replicas == wish.replicas
        && new.number(DESIRED_REPLICAS) == Some(i64::from(wish.replicas))
        && new.available() == wish.replicas
}

fn in_proportion(wish: &Wish<'_>, all: Vec<&mut Member<'_>>) {
    let mut active: Vec<&mut Member<'_>> = all.into_iter().filter(|member| member.replicas > 0).collect();
    let allowed = if wish.replicas > 0 { wish.ceiling() } else { 0 };
    let to_add = allowed - active.iter().map(|member| member.replicas).sum::<i32>();
    // The largest first; among equals the newest grows and the oldest shrinks.
    active.sort_by(|one, other| {
        let age = one.age_order().cmp(&other.age_order());
        other.replicas.cmp(&one.replicas).then(if to_add > 0 { age.reverse() } else { age })
    });
    let mut added = 0;
    let mut sizes: Vec<i32> = Vec::with_capacity(active.len());
    for member in &active {
        let share = share(wish, member, to_add, added);
        sizes.push(member.replicas + share);
        added += share;
    }
    // What rounding left over goes to the largest.
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    for (member, size) in active.into_iter().zip(sizes) {
        member.scale(size, wish);
    }
}

/// How many of `to_add` pods (negative: to remove) this ReplicaSet takes, `added` being taken already.
fn share(wish: &Wish<'_>, member: &Member<'_>, to_add: i32, added: i32) -> i32 {
    let left = to_add - added;
    if member.replicas == 0 || to_add == 0 || left == 0 {
        return 0;
    }
    let fraction = fraction(wish, member);
    if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
}

fn fraction(wish: &Wish<'_>, member: &Member<'_>) -> i32 {
    if wish.replicas == 0 {
        return -member.replicas;
    }
    let status = wish.deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
    let before = member.number(MAX_REPLICAS).filter(|max| *max > 0).unwrap_or(i64::from(status)).max(1);
    let size = f64::from(member.replicas) * f64::from(wish.ceiling()) / before as f64;
    size.round() as i32 - member.replicas
}
