//! How fast a number of replicas may follow what is asked for (`spec.behavior`): stabilization windows and policies.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// No policy may look further back.
const LONGEST: SignedDuration = SignedDuration::from_secs(3600);

/// What was asked for, and what was done, as far as rules look back. Lives in memory: after a restart the rules know of
/// nothing earlier, as in Kubernetes.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    recommendations: Vec<(Timestamp, i32)>,
    /// Replicas added (positive) or removed (negative).
    changes: Vec<(Timestamp, i32)>,
}

/// What holds a number back, for the condition `ScalingLimited`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limited {
    No,
    TooManyReplicas,
    TooFewReplicas,
    ScaleUpLimit,
    ScaleDownLimit,
    /// An older recommendation holds (`AbleToScale`: `ScaleUpStabilized`, `ScaleDownStabilized`).
    UpStabilized,
    DownStabilized,
}

/// What may be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    pub(super) replicas: i32,
    pub(super) stabilized: Limited,
    pub(super) limited: Limited,
}

/// The least and the most that the object allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) least: i32,
    pub(super) most: i32,
}

impl History {
    /// Notes that the number was changed.
    pub(super) fn changed(&mut self, by: i32, now: Timestamp) {
        self.changes.retain(|(at, _)| now.duration_since(*at) <= LONGEST);
        self.changes.push((now, by));
    }

    /// What may be done of `desired` now, given `current`.
    pub(super) fn allow(
        &mut self,
        behaviour: &HorizontalPodAutoscalerBehavior,
        (current, desired): (i32, i32),
        range: Range,
        now: Timestamp,
    ) -> Allowed {
        self.recommendations.retain(|(at, _)| now.duration_since(*at) <= LONGEST);
        let steady = self.stabilized(behaviour, current, desired, now);
        self.recommendations.push((now, desired));
        let stabilized = match steady {
            _ if steady == desired => Limited::No,
            _ if steady < desired => Limited::UpStabilized,
            _ => Limited::DownStabilized,
        };
        let (replicas, limited) = if steady > current {
            self.up(behaviour.scale_up.as_ref(), (current, steady), range, now)
        } else if steady < current {
            self.down(behaviour.scale_down.as_ref(), (current, steady), range, now)
        } else {
            (steady, Limited::No)
        };
        Allowed { replicas, stabilized, limited }
    }

    /// The lowest recommendation of the window for growing, the highest of the window for shrinking.
    fn stabilized(
        &self,
        behaviour: &HorizontalPodAutoscalerBehavior,
        current: i32,
        desired: i32,
        now: Timestamp,
    ) -> i32 {
        let window = |rules: Option<&HPAScalingRules>, usual: i32| {
            let seconds = rules.and_then(|rules| rules.stabilization_window_seconds).unwrap_or(usual);
            SignedDuration::from_secs(i64::from(seconds))
        };
        let (up, down) = (window(behaviour.scale_up.as_ref(), 0), window(behaviour.scale_down.as_ref(), 300));
        let within = |window: SignedDuration| {
            let recent = self.recommendations.iter().filter(move |(at, _)| now.duration_since(*at) < window);
            recent.map(|(_, replicas)| *replicas)
        };
        let growing = within(up).fold(desired, i32::min);
        let shrinking = within(down).fold(desired, i32::max);
        current.max(growing).min(shrinking)
    }

    fn up(
        &self,
        rules: Option<&HPAScalingRules>,
        (current, desired): (i32, i32),
        range: Range,
        now: Timestamp,
    ) -> (i32, Limited) {
        let usual = [policy("Pods", 4, 15), policy("Percent", 100, 15)];
        let reached = |policy: &HPAScalingPolicy| {
            let start = i64::from(self.start_of(policy, current, now));
            match policy.type_.as_str() {
                "Pods" => start + i64::from(policy.value),
                _ => (start * (100 + i64::from(policy.value)) + 99) / 100,
            }
        };
        let limit = select(rules, &usual, reached, Better::Higher).unwrap_or(i64::from(current));
        let limit = i32::try_from(limit).unwrap_or(i32::MAX).max(current);
        let most = limit.min(range.most);
        match desired > most {
            true if range.most <= limit => (most, Limited::TooManyReplicas),
            true => (most, Limited::ScaleUpLimit),
            false => (desired, Limited::No),
        }
    }

    fn down(
        &self,
        rules: Option<&HPAScalingRules>,
        (current, desired): (i32, i32),
        range: Range,
        now: Timestamp,
    ) -> (i32, Limited) {
        let usual = [policy("Percent", 100, 15)];
        let reached = |policy: &HPAScalingPolicy| {
            let start = i64::from(self.start_of(policy, current, now));
            match policy.type_.as_str() {
                "Pods" => start - i64::from(policy.value),
                _ => start * (100 - i64::from(policy.value)) / 100,
            }
        };
        let limit = select(rules, &usual, reached, Better::Lower).unwrap_or(i64::from(current));
        let limit = i32::try_from(limit).unwrap_or(0).clamp(0, current);
        let least = limit.max(range.least);
        match desired < least {
            true if range.least >= limit => (least, Limited::TooFewReplicas),
            true => (least, Limited::ScaleDownLimit),
            false => (desired, Limited::No),
        }
    }

    /// The number of replicas at the start of a policy's period.
    fn start_of(&self, policy: &HPAScalingPolicy, current: i32, now: Timestamp) -> i32 {
        let period = SignedDuration::from_secs(i64::from(policy.period_seconds));
        let recent = self.changes.iter().filter(|(at, _)| now.duration_since(*at) < period);
        current - recent.map(|(_, by)| by).sum::<i32>()
    }
}

/// Which of two numbers lets more happen.
#[derive(Clone, Copy)]
enum Better {
    Higher,
    Lower,
}

/// What the selected policy reaches; `None` where the direction is disabled.
fn select(
    rules: Option<&HPAScalingRules>,
    usual: &[HPAScalingPolicy],
    reached: impl Fn(&HPAScalingPolicy) -> i64,
    better: Better,
) -> Option<i64> {
    let chosen = rules.and_then(|rules| rules.select_policy.as_deref()).unwrap_or("Max");
    let own = rules.and_then(|rules| rules.policies.as_deref()).filter(|policies| !policies.is_empty());
    let reached = own.unwrap_or(usual).iter().map(reached);
    match (chosen, better) {
        ("Disabled", _) => None,
        ("Min", Better::Higher) | ("Max", Better::Lower) => reached.min(),
        _ => reached.max(),
    }
}

fn policy(kind: &str, value: i32, period_seconds: i32) -> HPAScalingPolicy {
    HPAScalingPolicy { type_: kind.to_owned(), value, period_seconds }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const RANGE: Range = Range { least: 1, most: 50 };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn behaviour(value: Value) -> HorizontalPodAutoscalerBehavior {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn growth_is_by_four_or_double_and_shrinking_waits_five_minutes() {
        let usual = behaviour(json!({}));
        let mut history = History::default();
        let mut allow =
            |second, current, desired| history.allow(&usual, (current, desired), RANGE, at(second));
        assert_eq!(allow(0, 1, 20).replicas, 5);
        assert_eq!(allow(0, 1, 20).limited, Limited::ScaleUpLimit);
        assert_eq!(allow(15, 5, 20).replicas, 10);
        assert_eq!(allow(30, 10, 200).replicas, 20);
        let held = allow(60, 20, 3);
        assert_eq!((held.replicas, held.stabilized), (20, Limited::DownStabilized));
        assert_eq!(allow(400, 20, 3).replicas, 3, "nothing higher within five minutes");
    }

    #[test]
    fn policies_count_what_was_done_in_their_period() {
        let rules = behaviour(json!({
            "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Min", "policies": [
                {"type": "Pods", "value": 2, "periodSeconds": 60}, {"type": "Percent", "value": 300, "periodSeconds": 60}]},
            "scaleDown": {"stabilizationWindowSeconds": 0, "policies": [
                {"type": "Pods", "value": 1, "periodSeconds": 60}]},
        }));
        let mut history = History::default();
        assert_eq!(history.allow(&rules, (2, 10), RANGE, at(0)).replicas, 4);
        history.changed(2, at(0));
        assert_eq!(history.allow(&rules, (4, 10), RANGE, at(30)).replicas, 4, "two in this minute already");
        assert_eq!(history.allow(&rules, (4, 10), RANGE, at(61)).replicas, 6);
        let down = history.allow(&rules, (6, 1), RANGE, at(200));
        assert_eq!((down.replicas, down.limited), (5, Limited::ScaleDownLimit));
    }

    #[test]
    fn a_disabled_direction_stays_and_the_range_is_kept() {
        let rules =
            behaviour(json!({"scaleDown": {"selectPolicy": "Disabled", "stabilizationWindowSeconds": 0}}));
        let mut history = History::default();
        assert_eq!(history.allow(&rules, (6, 1), RANGE, at(0)).replicas, 6);
        let most = history.allow(&rules, (48, 99), RANGE, at(400));
        assert_eq!((most.replicas, most.limited), (50, Limited::TooManyReplicas));
        let quick = behaviour(json!({"scaleDown": {"stabilizationWindowSeconds": 0}}));
        let least = History::default().allow(&quick, (6, 0), RANGE, at(0));
        assert_eq!((least.replicas, least.limited), (1, Limited::TooFewReplicas));
    }
}
