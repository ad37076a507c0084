//! How many replicas a measured use asks for: a function of values. The rules are those of Kubernetes' horizontal
//! autoscaler: ready pods are measured; missing and unready ones are assumed at what keeps the decision careful.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

/// Use within this part of the target changes nothing.
pub(super) const TOLERANCE: f64 = 0.1;
/// A pod's CPU is not trusted for this long after its start unless it has been ready for a whole window.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_secs(300);
/// A pod that became unready this soon after its start was never ready.
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);

/// What one pod used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// Milli-units of the resource (of a core, of a byte).
    pub(super) milli: i64,
    pub(super) at: Timestamp,
    pub(super) window: SignedDuration,
}

/// The resource that is measured; CPU is special while a pod starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measured {
    Cpu,
    Other,
}

/// What a target asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Target {
    /// Percent of what the containers request, on average.
    Utilization(i32),
    /// Milli-units for each pod, on average.
    AverageValue(i64),
}

/// A pod with what it requests of the resource, in milli-units.
pub(super) struct Requesting<'a> {
    pub(super) pod: &'a Pod,
    pub(super) requests: Result<i64, String>,
}

/// What a metric asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Proposal {
    pub(super) replicas: i32,
    /// Average use of the pods that were measured, milli-units.
    pub(super) average: i64,
    /// Percent of the requests, where the target is one.
    pub(super) utilization: Option<i32>,
}

#[derive(Default)]
struct Groups<'a> {
    ready: Vec<&'a Requesting<'a>>,
    unready: Vec<&'a Requesting<'a>>,
    missing: Vec<&'a Requesting<'a>>,
}

/// The number of replicas that brings the use to its target.
///
/// # Errors
/// In words for a condition: nothing was measured, or a container requests nothing of the resource.
pub(super) fn propose(
    pods: &[Requesting<'_>],
    samples: &BTreeMap<String, Sample>,
    (measured, target, tolerance): (Measured, Target, f64),
    current: i32,
    now: Timestamp,
) -> Result<Proposal, String> {
    let groups = group(pods, samples, measured, now);
    let use_of = |pod: &Requesting<'_>| {
        samples.get(pod.pod.metadata.name.as_deref().unwrap_or_default()).map_or(0, |s| s.milli)
    };
    let used: Vec<(&Requesting<'_>, i64)> = groups.ready.iter().map(|pod| (*pod, use_of(pod))).collect();
    if used.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let (ratio, utilization) = ratio(&used, target)?;
    let average = used.iter().map(|(_, milli)| milli).sum::<i64>() / count(used.len());
    let proposal = |replicas| Proposal { replicas, average, utilization };
    let counts_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !counts_unready && groups.missing.is_empty() {
        let within = (1.0 - ratio).abs() <= tolerance;
        return Ok(proposal(if within { current } else { ceil(ratio * used.len() as f64) }));
    }
    let assumed = assume(used, &groups, (ratio, target), counts_unready)?;
    let (new, _) = self::ratio(&assumed, target)?;
    let turns = (ratio < 1.0 && new > 1.0) || (ratio > 1.0 && new < 1.0);
    if (1.0 - new).abs() <= tolerance || turns {
        return Ok(proposal(current));
    }
    let replicas = ceil(new * assumed.len() as f64);
    // What is assumed must not turn the direction either.
    let turns = (new < 1.0 && replicas > current) || (new > 1.0 && replicas < current);
    Ok(proposal(if turns { current } else { replicas }))
}

/// The measured ones, and those that are not, at what they are taken to use: missing pods hold a decision to shrink
/// back and do not help one to grow; pods that are not ready use nothing yet.
fn assume<'a>(
    mut used: Vec<(&'a Requesting<'a>, i64)>,
    groups: &Groups<'a>,
    (ratio, target): (f64, Target),
    counts_unready: bool,
) -> Result<Vec<(&'a Requesting<'a>, i64)>, String> {
    for pod in &groups.missing {
        let milli = match target {
            _ if ratio > 1.0 => 0,
            Target::Utilization(percent) => pod.requests.clone()? * i64::from(percent.max(100)) / 100,
            Target::AverageValue(milli) => milli,
        };
        used.push((pod, milli));
    }
    if counts_unready {
        used.extend(groups.unready.iter().map(|pod| (*pod, 0)));
    }
    Ok(used)
}

/// Use over target, and the percentage where there is one.
fn ratio(used: &[(&Requesting<'_>, i64)], target: Target) -> Result<(f64, Option<i32>), String> {
    let total: i64 = used.iter().map(|(_, milli)| milli).sum();
    match target {
        Target::AverageValue(milli) => Ok((total as f64 / (milli.max(1) as f64 * used.len() as f64), None)),
        Target::Utilization(percent) => {
            let mut requests = 0_i64;
            for (pod, _) in used {
                requests += pod.requests.clone()?;
            }
            if requests == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let utilization = i32::try_from(total * 100 / requests).unwrap_or(i32::MAX);
            Ok((f64::from(utilization) / f64::from(percent.max(1)), Some(utilization)))
        }
    }
}

fn group<'a>(
    pods: &'a [Requesting<'a>],
    samples: &BTreeMap<String, Sample>,
    measured: Measured,
    now: Timestamp,
) -> Groups<'a> {
    let mut groups = Groups::default();
    for each in pods {
        let phase = each.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if each.pod.metadata.deletion_timestamp.is_some()
            || phase == Some("Failed")
            || phase == Some("Succeeded")
        {
            continue;
        }
        let sample = samples.get(each.pod.metadata.name.as_deref().unwrap_or_default());
        match sample {
            _ if phase == Some("Pending") => groups.unready.push(each),
            None => groups.missing.push(each),
            Some(sample) if measured == Measured::Cpu && is_starting(each.pod, sample, now) => {
                groups.unready.push(each);
            }
            Some(_) => groups.ready.push(each),
        }
    }
    groups
}

/// Whether the CPU of a pod says nothing yet about its work.
fn is_starting(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let status = pod.status.as_ref();
    let ready = status.and_then(|status| status.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready"));
    let started = status.and_then(|status| status.start_time.as_ref());
    let (Some(ready), Some(started)) = (ready, started) else { return true };
    let changed = ready.last_transition_time.as_ref().map_or(started.0, |time| time.0);
    if now.duration_since(started.0) < CPU_INITIALIZATION {
        return ready.status == "False" || sample.at.duration_since(changed) < sample.window;
    }
    ready.status == "False" && changed.duration_since(started.0) < INITIAL_READINESS
}

fn ceil(replicas: f64) -> i32 {
    // A number of pods; beyond i32 it is cut, which any maximum cuts further.
    replicas.ceil().clamp(0.0, f64::from(i32::MAX)) as i32
}

fn count(pods: usize) -> i64 {
    i64::try_from(pods).unwrap_or(i64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: &str = "2026-01-01T01:00:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    /// A pod that has run for an hour and is ready, or not.
    fn pod(name: &str, phase: &str, ready: &str) -> Pod {
        let status = json!({"phase": phase, "startTime": "2026-01-01T00:00:00Z", "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:10Z"}]});
        serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap()
    }

    fn samples(used: &[i64]) -> BTreeMap<String, Sample> {
        let sample = |milli| Sample { milli, at: now(), window: SignedDuration::from_secs(30) };
        used.iter()
            .enumerate()
            .filter(|(_, m)| **m >= 0)
            .map(|(n, m)| (format!("p{n}"), sample(*m)))
            .collect()
    }

    /// Pods that each request a core: `used` in milli, -1 for one without a sample.
    fn replicas(used: &[i64], target: Target, current: i32) -> Result<i32, String> {
        let pods: Vec<Pod> = (0..used.len()).map(|n| pod(&format!("p{n}"), "Running", "True")).collect();
        let pods: Vec<_> = pods.iter().map(|pod| Requesting { pod, requests: Ok(1000) }).collect();
        let asked = (Measured::Cpu, target, TOLERANCE);
        propose(&pods, &samples(used), asked, current, now()).map(|proposal| proposal.replicas)
    }

    #[test]
    fn use_over_target_times_pods() {
        let table: &[(&[i64], Target, i32, i32)] = &[
            (&[300, 500, 700], Target::Utilization(30), 3, 5),
            (&[300, 300, 300], Target::Utilization(30), 3, 3),
            (&[320, 320, 320], Target::Utilization(30), 3, 3),
            (&[100, 300, 500, 250, 250], Target::Utilization(50), 5, 3),
            (&[10, 10], Target::Utilization(50), 2, 1),
            (&[400, 600], Target::AverageValue(250), 2, 4),
            (&[0, 0], Target::Utilization(50), 2, 0),
            // One that is not measured holds a growth back, and a shrinking.
            (&[900, -1], Target::Utilization(50), 2, 2),
            (&[2000, -1], Target::Utilization(50), 2, 4),
            (&[100, -1], Target::Utilization(50), 2, 2),
            (&[100, 100, 100, -1], Target::Utilization(60), 4, 3),
        ];
        for (used, target, current, expected) in table {
            assert_eq!(replicas(used, *target, *current), Ok(*expected), "{used:?} {target:?}");
        }
        assert!(replicas(&[-1], Target::Utilization(50), 1).unwrap_err().contains("did not receive metrics"));
    }

    #[test]
    fn pods_that_start_count_as_idle_when_growing_and_not_at_all_when_shrinking() {
        let all = [pod("p0", "Running", "True"), pod("p1", "Pending", "False"), pod("p2", "Failed", "False")];
        let pods: Vec<_> = all.iter().map(|pod| Requesting { pod, requests: Ok(1000) }).collect();
        let asked = (Measured::Cpu, Target::Utilization(50), TOLERANCE);
        let of = |used| propose(&pods, &samples(&[used]), asked, 2, now()).unwrap();
        assert_eq!(of(2000).replicas, 4);
        assert_eq!(of(800).replicas, 2, "with the idle one it is below the target: not turned, kept");
        assert_eq!((of(200).replicas, of(200).utilization, of(200).average), (1, Some(20), 200));
    }

    #[test]
    fn cpu_is_not_trusted_while_a_pod_starts() {
        let mut young = pod("p0", "Running", "True");
        let status = young.status.as_mut().unwrap();
        status.start_time = Some("2026-01-01T00:59:00Z".parse::<Timestamp>().unwrap().into());
        let ready = &mut status.conditions.as_mut().unwrap()[0];
        ready.last_transition_time = Some("2026-01-01T00:59:50Z".parse::<Timestamp>().unwrap().into());
        let pods = [Requesting { pod: &young, requests: Ok(1000) }];
        let asked = |measured| (measured, Target::Utilization(50), TOLERANCE);
        assert!(propose(&pods, &samples(&[900]), asked(Measured::Cpu), 1, now()).is_err());
        assert_eq!(propose(&pods, &samples(&[900]), asked(Measured::Other), 1, now()).unwrap().replicas, 2);
    }

    #[test]
    fn a_container_that_requests_nothing_is_named() {
        let one = pod("p0", "Running", "True");
        let pods = [Requesting { pod: &one, requests: Err("missing request for cpu".to_owned()) }];
        let asked = (Measured::Cpu, Target::Utilization(50), TOLERANCE);
        assert_eq!(
            propose(&pods, &samples(&[1]), asked, 1, now()),
            Err("missing request for cpu".to_owned())
        );
    }
}
