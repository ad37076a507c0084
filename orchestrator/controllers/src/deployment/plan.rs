//! What to do for a Deployment, given what is observed: a function of values.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::hash;
use super::member::{DESIRED_REPLICAS, MAX_REPLICAS, Member, REVISION, Strategy, Wish, spec_replicas};
use super::status::{self, Milestone};
use super::{revision, scale};
use crate::claim::selector_of;
use catamaran_client::object;

/// What is observed.
pub(super) struct Observed<'a> {
    pub(super) deployment: &'a Deployment,
    /// The ReplicaSets that belong to it.
    pub(super) sets: &'a [Arc<ReplicaSet>],
    /// The uids of ReplicaSets that have pods which have not ended.
    pub(super) busy: &'a HashSet<String>,
    pub(super) now: Timestamp,
}

/// What is to be done, in this order, and what the status is then.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// A ReplicaSet to create.
    pub(super) create: Option<Box<ReplicaSet>>,
    /// Changes of ReplicaSets.
    pub(super) changes: Vec<SetChange>,
    /// ReplicaSets that history no longer needs.
    pub(super) delete: Vec<Arc<ReplicaSet>>,
    /// The revision to write on the Deployment.
    pub(super) revision: Option<String>,
    /// The status; the same as observed when nothing changes.
    pub(super) status: DeploymentStatus,
    /// When to look again though nothing changes.
    pub(super) look_again: Option<Duration>,
    /// Selects everything: refused.
    pub(super) selects_all: bool,
}

/// Changes of one ReplicaSet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SetChange {
    pub(super) meta: ObjectMeta,
    /// From and to; equal when only annotations change.
    pub(super) from: i32,
    pub(super) to: i32,
    pub(super) annotations: BTreeMap<String, Option<String>>,
    pub(super) min_ready_seconds: Option<i32>,
}

/// A plan in the making.
struct Draft<'a> {
    wish: Wish<'a>,
    old: Vec<Member<'a>>,
    new: Option<Member<'a>>,
    create: Option<Box<ReplicaSet>>,
    delete: Vec<Arc<ReplicaSet>>,
    revision: Option<String>,
    conditions: Vec<DeploymentCondition>,
    now: Timestamp,
}

/// Plans one pass over a Deployment.
pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let deployment = observed.deployment;
    let before = deployment.status.clone().unwrap_or_default();
    let Some(spec) = deployment.spec.as_ref() else { return Plan { status: before, ..Plan::default() } };
    if selector_of(&spec.selector).is_none() {
        let status = DeploymentStatus { observed_generation: deployment.metadata.generation, ..before };
        return Plan { status, selects_all: true, ..Plan::default() };
    }
    let mut draft = Draft::new(Wish::new(deployment, spec), observed, before.conditions.unwrap_or_default());
    if object::is_being_deleted(&deployment.metadata) {
        return draft.counted();
    }
    status::note_pause(&draft.wish, &mut draft.conditions, observed.now);
    let paused = spec.paused == Some(true);
    let members: Vec<&Member<'_>> = draft.old.iter().chain(&draft.new).collect();
    if paused || scale::is_scaling(&draft.wish, &members) {
        draft.adjust_new();
        let Draft { wish, old, new, .. } = &mut draft;
        scale::resize(wish, old, new.as_mut());
        if paused {
            draft.clean_up(observed.sets);
        }
        return draft.counted();
    }
    match draft.wish.strategy {
        Strategy::RollingUpdate => draft.roll(),
        Strategy::Recreate => draft.recreate(observed.busy),
    }
    draft.finished(observed.sets)
}

impl<'a> Draft<'a> {
    fn new(wish: Wish<'a>, observed: &Observed<'a>, conditions: Vec<DeploymentCondition>) -> Self {
        let mut old: Vec<Member<'a>> = observed.sets.iter().map(|set| Member::observed(set)).collect();
        old.sort_by(|one, other| one.age_order().cmp(&other.age_order()));
        // The oldest of those with today's template is the new one.
        let template = &wish.spec.template;
        let at = old.iter().position(|member| {
            let spec = member.observed.and_then(|set| set.spec.as_ref());
            let other = spec.and_then(|spec| spec.template.as_ref());
            other.is_some_and(|other| hash::is_same(template, other))
        });
        let new = at.map(|at| old.remove(at));
        let (create, delete) = (None, Vec::new());
        Self { wish, old, new, create, delete, revision: None, conditions, now: observed.now }
    }

    /// A step of a rolling update: up with the new, or else down with the old.
    fn roll(&mut self) {
        self.need_new();
        let Self { wish, old, new, .. } = self;
        let new = new.as_mut().expect("it was found or planned");
        if !scale::step_new(wish, old, new) {
            scale::step_old(wish, old, new);
        }
    }

    /// The new one only starts when nothing old runs any more.
    fn recreate(&mut self, busy: &HashSet<String>) {
        self.adjust_new();
        if scale::all_to_zero(&self.wish, &mut self.old) {
            return;
        }
        let is_busy = |member: &Member<'_>| {
            member.observed.is_some_and(|set| busy.contains(object::uid(&set.metadata)))
        };
        if self.old.iter().any(is_busy) {
            return;
        }
        self.need_new();
        let replicas = self.wish.replicas;
        if let Some(new) = self.new.as_mut().filter(|new| new.replicas != replicas) {
            new.scale(replicas, &self.wish);
        }
    }

    /// The number of the newest rollout.
    fn next_revision(&self) -> i64 {
        self.old.iter().map(Member::revision).max().unwrap_or(0) + 1
    }

    /// Brings annotations and minReadySeconds of the new ReplicaSet up to date, if there is one.
    fn adjust_new(&mut self) {
        let next = self.next_revision();
        let Some(new) = self.new.as_mut() else { return };
        revision::copy_annotations(self.wish.deployment, new);
        if new.revision() < next {
            revision::record(new, next);
        }
        let seconds = self.wish.spec.min_ready_seconds.unwrap_or(0);
        let current = new.observed.and_then(|set| set.spec.as_ref()?.min_ready_seconds).unwrap_or(0);
        if seconds != current {
            new.min_ready_seconds = Some(seconds);
        }
        let recorded = new.annotation(REVISION).map(str::to_owned);
        let name = new.name.clone();
        self.note_revision(recorded);
        if status::has_deadline(&self.wish) && !status::has_progressing(self.wish.deployment) {
            status::milestone(&mut self.conditions, Milestone::Found, &name, "", self.now);
        }
    }

    /// Finds the new ReplicaSet, or plans its creation.
    fn need_new(&mut self) {
        if self.new.is_some() {
            return self.adjust_new();
        }
        let collisions = self.wish.deployment.status.as_ref().and_then(|status| status.collision_count);
        let hash = hash::hash(&self.wish.spec.template, collisions);
        let name = format!("{}-{hash}", object::name(&self.wish.deployment.metadata));
        let mut new = Member::planned(name, 0);
        new.replicas = scale::new_size(&self.wish, &self.old, 0);
        revision::copy_annotations(self.wish.deployment, &mut new);
        let next = self.next_revision().to_string();
        new.annotate(REVISION, next.clone());
        new.annotate(DESIRED_REPLICAS, self.wish.replicas.to_string());
        new.annotate(MAX_REPLICAS, self.wish.ceiling().to_string());
        self.create = Some(Box::new(new_set(&self.wish, &new, &hash)));
        self.note_revision(Some(next));
        if status::has_deadline(&self.wish) {
            status::milestone(&mut self.conditions, Milestone::Created, &new.name, "", self.now);
        }
        self.new = Some(new);
    }

    fn note_revision(&mut self, revision: Option<String>) {
        let current = object::annotation(&self.wish.deployment.metadata, REVISION);
        self.revision = revision.filter(|revision| Some(revision.as_str()) != current);
    }

    /// Gives up the oldest ReplicaSets without pods beyond the history limit.
    fn clean_up(&mut self, sets: &[Arc<ReplicaSet>]) {
        let Some(limit) = self.wish.spec.revision_history_limit.filter(|limit| *limit != i32::MAX) else {
            return;
        };
        let mut alive: Vec<&Member<'_>> = self
            .old
            .iter()
            .filter(|member| member.observed.is_some_and(|set| !object::is_being_deleted(&set.metadata)))
            .collect();
        let excess = alive.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        alive.sort_by_key(|member| member.revision());
        let names: HashSet<&str> = alive
            .into_iter()
            .take(excess)
            .filter(|member| is_idle(member))
            .map(|member| member.name.as_str())
            .collect();
        let is_named = |set: &&Arc<ReplicaSet>| names.contains(object::name(&set.metadata));
        self.delete = sets.iter().filter(is_named).cloned().collect();
    }

    /// The plan of a rollout: counters, progress, failure; history once it is complete.
    fn finished(mut self, sets: &[Arc<ReplicaSet>]) -> Plan {
        let before = self.wish.deployment.status.clone().unwrap_or_default();
        if status::is_complete(&self.wish, &before) {
            self.clean_up(sets);
        }
        let conditions = std::mem::take(&mut self.conditions);
        let mut status = status::counted(&self.wish, &self.old, self.new.as_ref(), conditions, self.now);
        status::judge(&self.wish, &self.old, self.new.as_ref(), &mut status, self.now);
        let look_again = status::look_again(&self.wish, &status, self.now);
        self.into_plan(status, look_again)
    }

    /// The plan while nothing is rolled out: only the counters.
    fn counted(mut self) -> Plan {
        let conditions = std::mem::take(&mut self.conditions);
        let status = status::counted(&self.wish, &self.old, self.new.as_ref(), conditions, self.now);
        self.into_plan(status, None)
    }

    fn into_plan(self, status: DeploymentStatus, look_again: Option<Duration>) -> Plan {
        let changes = self.old.iter().chain(&self.new).filter_map(change_of).collect();
        Plan {
            create: self.create,
            changes,
            delete: self.delete,
            revision: self.revision,
            status,
            look_again,
            selects_all: false,
        }
    }
}

fn change_of(member: &Member<'_>) -> Option<SetChange> {
    let set = member.observed.filter(|_| member.is_changed())?;
    let set_to = member.annotations.iter().map(|(key, value)| (key.clone(), Some(value.clone())));
    let removed = member.removed.iter().map(|key| (key.clone(), None));
    Some(SetChange {
        meta: set.metadata.clone(),
        from: spec_replicas(set),
        to: member.replicas,
        annotations: set_to.chain(removed).collect(),
        min_ready_seconds: member.min_ready_seconds,
    })
}

/// Has it no pods, is none wanted, and has its controller seen that?
fn is_idle(member: &Member<'_>) -> bool {
    let Some(set) = member.observed else { return false };
    let observed = member.status().and_then(|status| status.observed_generation);
    member.replicas == 0
        && spec_replicas(set) == 0
        && member.actual() == 0
        && observed >= set.metadata.generation
}

fn new_set(wish: &Wish<'_>, new: &Member<'_>, hash: &str) -> ReplicaSet {
    let with_hash = |labels: Option<&BTreeMap<String, String>>| {
        let mut labels = labels.cloned().unwrap_or_default();
        labels.insert(hash::TEMPLATE_HASH.to_owned(), hash.to_owned());
        labels
    };
    let mut template = wish.spec.template.clone();
    let labels = with_hash(template.metadata.as_ref().and_then(|meta| meta.labels.as_ref()));
    template.metadata.get_or_insert_default().labels = Some(labels.clone());
    let selector = LabelSelector {
        match_labels: Some(with_hash(wish.spec.selector.match_labels.as_ref())),
        match_expressions: wish.spec.selector.match_expressions.clone(),
    };
    let owner = object::controller_reference("apps/v1", "Deployment", &wish.deployment.metadata);
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(new.name.clone()),
            namespace: wish.deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(new.annotations.clone()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(new.replicas),
            min_ready_seconds: wish.spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}
