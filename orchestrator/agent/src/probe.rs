//! What a series of probe results means: thresholds for startup, liveness and readiness. Pure; `prober` runs them.

use k8s_openapi::api::core::v1 as core;

/// Which of the three probes of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

/// What is known from one probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Health {
    /// The container has no such probe.
    #[default]
    NotAsked,
    /// No threshold was reached yet.
    Pending,
    Pass,
    Fail,
}

/// What is known from the probes of a running container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Probes {
    pub(crate) startup: Health,
    pub(crate) liveness: Health,
    pub(crate) readiness: Health,
}

/// Counts results of one probe.
#[derive(Clone, Debug)]
pub(crate) struct Tracker {
    success: u32,
    failure: u32,
    same: u32,
    last: Option<bool>,
    health: Health,
}

// === impl ===

impl Kind {
    pub(crate) const ALL: [Kind; 3] = [Kind::Startup, Kind::Liveness, Kind::Readiness];

    /// The word in events: `Readiness probe failed: …`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }

    /// The container's probe of this kind.
    pub(crate) fn of(self, container: &core::Container) -> Option<&core::Probe> {
        match self {
            Kind::Startup => container.startup_probe.as_ref(),
            Kind::Liveness => container.liveness_probe.as_ref(),
            Kind::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

impl Probes {
    /// What is known of a container that has just started.
    pub(crate) fn initial(container: &core::Container) -> Self {
        let health = |kind: Kind| kind.of(container).map_or(Health::NotAsked, |_| Health::Pending);
        Probes {
            startup: health(Kind::Startup),
            liveness: health(Kind::Liveness),
            readiness: health(Kind::Readiness),
        }
    }

    /// These, with what another attempt of the same container was known to pass: started, and ready.
    pub(crate) fn carrying(mut self, known: Probes) -> Self {
        for kind in [Kind::Startup, Kind::Readiness] {
            if known.get(kind) == Health::Pass && self.get(kind) == Health::Pending {
                self.set(kind, Health::Pass);
            }
        }
        self
    }

    pub(crate) fn get(&self, kind: Kind) -> Health {
        match kind {
            Kind::Startup => self.startup,
            Kind::Liveness => self.liveness,
            Kind::Readiness => self.readiness,
        }
    }

    pub(crate) fn set(&mut self, kind: Kind, health: Health) {
        match kind {
            Kind::Startup => self.startup = health,
            Kind::Liveness => self.liveness = health,
            Kind::Readiness => self.readiness = health,
        }
    }

    /// `status.containerStatuses[].started`.
    pub(crate) fn started(&self) -> bool {
        matches!(self.startup, Health::NotAsked | Health::Pass)
    }

    /// Whether traffic may come.
    pub(crate) fn ready(&self) -> bool {
        self.started() && matches!(self.readiness, Health::NotAsked | Health::Pass)
    }

    /// The probe for whose failure the container has to be restarted.
    pub(crate) fn fatal(&self) -> Option<Kind> {
        if self.startup == Health::Fail {
            return Some(Kind::Startup);
        }
        (self.liveness == Health::Fail).then_some(Kind::Liveness)
    }
}

impl Tracker {
    /// A tracker with the probe's thresholds (1 and 3 where they are left out), that starts from `health`.
    pub(crate) fn new(probe: &core::Probe, health: Health) -> Self {
        let at_least_one = |value: Option<i32>, default: u32| {
            value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
        };
        Tracker {
            success: at_least_one(probe.success_threshold, 1),
            failure: at_least_one(probe.failure_threshold, 3),
            same: 0,
            last: None,
            health,
        }
    }

    /// Takes one result; the new verdict when a threshold is reached and it differs from the one before.
    pub(crate) fn record(&mut self, success: bool) -> Option<Health> {
        self.same = if self.last == Some(success) { self.same.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let (needed, verdict) =
            if success { (self.success, Health::Pass) } else { (self.failure, Health::Fail) };
        if self.same < needed || self.health == verdict {
            return None;
        }
        self.health = verdict;
        Some(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(success: i32, failure: i32, results: &str) -> Vec<Option<Health>> {
        let probe = core::Probe {
            success_threshold: Some(success),
            failure_threshold: Some(failure),
            ..core::Probe::default()
        };
        let mut tracker = Tracker::new(&probe, Health::Pending);
        results.chars().map(|c| tracker.record(c == '+')).collect()
    }

    #[test]
    fn thresholds_count_results_in_a_row() {
        use Health::*;
        assert_eq!(verdicts(1, 3, "+"), [Some(Pass)]);
        assert_eq!(verdicts(1, 3, "--+--"), [None, None, Some(Pass), None, None]);
        assert_eq!(verdicts(1, 3, "---"), [None, None, Some(Fail)]);
        assert_eq!(verdicts(2, 1, "+-++"), [None, Some(Fail), None, Some(Pass)]);
        assert_eq!(verdicts(1, 1, "+--+"), [Some(Pass), Some(Fail), None, Some(Pass)]);
    }

    #[test]
    fn a_container_is_ready_when_it_started_and_says_so() {
        use Health::*;
        let table = [
            (NotAsked, NotAsked, true, true),
            (Pending, NotAsked, false, false),
            (Pass, Pending, true, false),
            (Pass, Pass, true, true),
            (NotAsked, Fail, true, false),
        ];
        for (startup, readiness, started, ready) in table {
            let probes = Probes { startup, readiness, ..Probes::default() };
            assert_eq!((probes.started(), probes.ready()), (started, ready), "{probes:?}");
        }
        assert_eq!(
            Probes { startup: Fail, liveness: Fail, ..Probes::default() }.fatal(),
            Some(Kind::Startup)
        );
        assert_eq!(Probes { liveness: Fail, ..Probes::default() }.fatal(), Some(Kind::Liveness));
        assert_eq!(Probes { readiness: Fail, ..Probes::default() }.fatal(), None);
    }
}
