//! Admission webhooks (`admissionregistration.k8s.io/v1`): mutating ones are asked one after the other, validating
//! ones all at once. Configurations are read from the store with every request that might concern them, so that one
//! that is acknowledged is in force.

mod call;
mod hook;
mod resolve;
mod review;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::join_all;
use serde_json::{Value, json};

use catamaran_api::decode::{self, Strictness};
use catamaran_api::kind::{self, GroupVersionKind, Resource};
use catamaran_api::status::{GroupResource, Status, quoted};
use catamaran_api::{defaults, meta, patch};
use catamaran_store::{Range, Revision};

use self::hook::{DryRunSupport, FailurePolicy, Hook, Reinvocation, Subject};
use self::review::{Mode, Question, Verdict};
use super::look_up;
use crate::authenticate::UserInfo;
use crate::context::Context;
use crate::core::Core;
use crate::options::DryRun;
use crate::{convert, encode, error, keys};

pub(crate) use hook::Operation;

/// Configurations are not subject to what they configure: nobody would get out of a mistake.
const EXEMPT_GROUP: &str = "admissionregistration.k8s.io";

/// The webhooks of the configurations as they were last read.
#[derive(Default)]
pub(crate) struct Webhooks {
    mutating: Known,
    validating: Known,
}

type Versions = Vec<(Arc<str>, Revision)>;

#[derive(Default)]
struct Known(Mutex<Option<(Versions, Arc<Vec<Hook>>)>>);

impl Webhooks {
    /// The webhooks in force, in the order of their configurations' names.
    async fn load(core: &Core, mode: Mode) -> Result<Arc<Vec<Hook>>, Status> {
        let (plural, known) = match mode {
            Mode::Mutating => ("mutatingwebhookconfigurations", &core.webhooks.mutating),
            Mode::Validating => ("validatingwebhookconfigurations", &core.webhooks.validating),
        };
        let Some(resource) = kind::find(EXEMPT_GROUP, "v1", plural) else { return Ok(Arc::default()) };
        let range = Range { prefix: keys::all(resource), ..Range::default() };
        let page = core.store.range(range).await;
        let page = page.map_err(|e| error::from_store(e, GroupResource::new(EXEMPT_GROUP, plural), ""))?;
        if page.entries.is_empty() {
            return Ok(Arc::default());
        }
        let versions: Versions = page.entries.iter().map(|e| (e.key.clone(), e.mod_revision)).collect();
        let mut known = known.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, hooks)) = &*known
            && *read == versions
        {
            return Ok(hooks.clone());
        }
        let mut hooks = Vec::new();
        for entry in &page.entries {
            let read = encode::decode(&entry.value, entry.mod_revision).map_err(Status::internal_error)?;
            hooks.extend(hook::parse(&read));
        }
        let hooks = Arc::new(hooks);
        *known = Some((versions, hooks.clone()));
        Ok(hooks)
    }
}

/// A request as webhooks see it.
pub(crate) struct Admission<'a> {
    pub(crate) context: &'a Context,
    pub(crate) operation: Operation,
    pub(crate) subresource: &'a str,
    /// Kind of the object where it is not that of the resource.
    pub(crate) kind: Option<GroupVersionKind>,
    /// Name of the object; a new one may have none yet.
    pub(crate) name: &'a str,
    pub(crate) dry_run: DryRun,
    /// `CreateOptions` or what the request has instead.
    pub(crate) options: Value,
}

/// Whether an object is still what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Same,
    Changed,
}

/// The mutating webhooks of a request, over both rounds.
pub(crate) struct Mutating<'a> {
    admission: &'a Admission<'a>,
    hooks: Arc<Vec<Hook>>,
    /// Asked, and to be asked again when somebody changes the object after them.
    asked: HashSet<String>,
    again: HashSet<String>,
    /// What the first round left behind.
    left: Value,
}

impl<'a> Admission<'a> {
    /// The mutating webhooks.
    ///
    /// # Errors
    /// When configurations cannot be read.
    pub(crate) async fn mutating(&'a self) -> Result<Mutating<'a>, Status> {
        let hooks = self.hooks(Mode::Mutating).await?;
        let (asked, again) = (HashSet::new(), HashSet::new());
        Ok(Mutating { admission: self, hooks, asked, again, left: Value::Null })
    }

    /// Whether there is any validating webhook.
    ///
    /// # Errors
    /// When configurations cannot be read.
    pub(crate) async fn validates(&self) -> Result<bool, Status> {
        Ok(!self.hooks(Mode::Validating).await?.is_empty())
    }

    /// Asks every validating webhook that wants to see the request; `object` or `old` is null where there is none.
    ///
    /// # Errors
    /// The refusal of the first one that refuses.
    pub(crate) async fn validate(&self, object: &Value, old: &Value) -> Result<(), Status> {
        let hooks = self.hooks(Mode::Validating).await?;
        let mut calls = Vec::new();
        for hook in hooks.iter() {
            if let Some(seen) = self.wanted(hook, object, old).await? {
                calls.push(self.ask(hook, seen, (object, old), Mode::Validating));
            }
        }
        join_all(calls).await.into_iter().try_for_each(|asked| asked.map(drop))
    }

    async fn hooks(&self, mode: Mode) -> Result<Arc<Vec<Hook>>, Status> {
        // The server starts whatever webhooks think of it: they may well run in it.
        if self.context.stored.group == EXEMPT_GROUP || self.context.user == UserInfo::server() {
            return Ok(Arc::default());
        }
        Webhooks::load(&self.context.core, mode).await
    }

    /// The namespace of the object; a Namespace is in itself.
    fn namespace(&self) -> &str {
        let stored = self.context.stored;
        if stored.group.is_empty() && stored.plural == "namespaces" {
            return self.name;
        }
        self.context.namespace().unwrap_or_default()
    }

    /// The resource as which a webhook wants to see the request; none when it does not want to.
    async fn wanted(
        &self,
        hook: &Hook,
        object: &Value,
        old: &Value,
    ) -> Result<Option<&'static Resource>, Status> {
        let subject = Subject {
            operation: self.operation,
            resource: self.context.resource,
            subresource: self.subresource,
            namespace: self.namespace(),
        };
        let Some(seen) = hook.wants(subject) else { return Ok(None) };
        let selected = |object: &Value| object.is_object() && hook.objects.matches(&meta::labels(object));
        if !hook.objects.is_everything() && !selected(object) && !selected(old) {
            return Ok(None);
        }
        let fits = self.fits_namespace(hook, object, old).await?;
        Ok(fits.then_some(seen))
    }

    async fn fits_namespace(&self, hook: &Hook, object: &Value, old: &Value) -> Result<bool, Status> {
        let namespace = self.namespace();
        let is_namespace = !self.context.resource.namespaced() && !namespace.is_empty();
        // What belongs to the whole cluster is never left out.
        if hook.namespaces.is_everything() || (namespace.is_empty() && !is_namespace) {
            return Ok(true);
        }
        if is_namespace {
            let this = if object.is_object() { object } else { old };
            return Ok(hook.namespaces.matches(&meta::labels(this)));
        }
        let found = look_up(self.context, ("", "v1", "namespaces"), None, namespace).await?;
        let found =
            found.ok_or_else(|| Status::not_found(GroupResource::new("", "namespaces"), namespace))?;
        Ok(hook.namespaces.matches(&meta::labels(&found)))
    }

    /// Asks one webhook; the answer is its patch.
    async fn ask(
        &self,
        hook: &Hook,
        seen: &'static Resource,
        (object, old): (&Value, &Value),
        mode: Mode,
    ) -> Result<Option<Vec<u8>>, Status> {
        if self.dry_run == DryRun::All && hook.dry_run == DryRunSupport::No {
            let name = quoted(&hook.name);
            return Err(Status::bad_request(format!("admission webhook {name} does not support dry run")));
        }
        let uid = uuid::Uuid::new_v4().to_string();
        let question = Question {
            uid: &uid,
            operation: self.operation,
            asked: self.context.resource,
            seen,
            kinds: (self.kind_as(self.context.resource), self.kind_as(seen)),
            subresource: self.subresource,
            namespace: self.namespace(),
            name: self.name,
            user: &self.context.user,
            object: &self.shown(object, seen),
            old: &self.shown(old, seen),
            options: &self.options,
            dry_run: self.dry_run,
        };
        let body = serde_json::to_vec(&question.to_value()).map_err(Status::internal_error)?;
        let answered = call::post(&*self.context.core.store, hook, body).await.and_then(|bytes| {
            let read = review::read(&bytes, &hook.name, &uid, mode);
            read.map_err(|why| format!("received invalid webhook response: {why}"))
        });
        let answer = match answered {
            Ok(answer) => answer,
            Err(why) => {
                let why = format!("failed calling webhook {}: {why}", quoted(&hook.name));
                if hook.failure == FailurePolicy::Fail {
                    return Err(Status::internal_error(why));
                }
                tracing::warn!(webhook = hook.name, "{why}; it is ignored as its failurePolicy says");
                return Ok(None);
            }
        };
        answer.warnings.into_iter().for_each(|warning| self.context.warn(warning));
        match answer.verdict {
            Verdict::Allowed(patch) => Ok(patch),
            Verdict::Denied(status) => Err(*status),
        }
    }

    fn kind_as(&self, resource: &Resource) -> GroupVersionKind {
        self.kind.unwrap_or_else(|| resource.gvk())
    }

    /// An object in the version that a webhook wants to see.
    fn shown(&self, object: &Value, seen: &Resource) -> Value {
        let mut shown = object.clone();
        if self.kind.is_none() && shown.is_object() {
            convert::to_served(&mut shown, seen, self.context.stored);
        }
        shown
    }

    /// The object after a patch, in its stored form.
    fn patched(
        &self,
        hook: &Hook,
        seen: &'static Resource,
        object: &Value,
        operations: &[u8],
    ) -> Result<Value, Status> {
        if !object.is_object() {
            return Err(Status::internal_error(format!(
                "admission webhook {} attempted to modify the object, which is not supported for this operation",
                quoted(&hook.name)
            )));
        }
        let patched = patch::json::apply(&self.shown(object, seen), operations);
        let patched = patched.map_err(|error| Status::internal_error(error.to_status().message))?;
        let kind = self.kind_as(seen);
        let decoded = decode::normalize(patched, kind, Strictness::Ignore);
        let mut patched = decoded.map_err(|error| Status::internal_error(error.to_string()))?.object;
        defaults::apply_kind(kind, &mut patched);
        if self.kind.is_none() {
            convert::to_stored(&mut patched, seen, self.context.stored);
        }
        // Which object it is, nobody decides but the server and the caller.
        for field in ["name", "namespace", "uid", "creationTimestamp", "resourceVersion", "managedFields"] {
            meta::set(&mut patched, field, object["metadata"][field].clone());
        }
        Ok(patched)
    }
}

impl Mutating<'_> {
    /// Whether there is any.
    pub(crate) fn any(&self) -> bool {
        !self.hooks.is_empty()
    }

    /// Asks every webhook that wants to see the request, each about what the ones before it left behind.
    ///
    /// # Errors
    /// The first refusal.
    pub(crate) async fn first(&mut self, object: &mut Value, old: &Value) -> Result<Outcome, Status> {
        let hooks = self.hooks.clone();
        if hooks.is_empty() {
            return Ok(Outcome::Same);
        }
        let mut outcome = Outcome::Same;
        for hook in hooks.iter() {
            let Some(seen) = self.admission.wanted(hook, object, old).await? else { continue };
            if self.ask(hook, seen, object, old).await? == Outcome::Changed {
                outcome = Outcome::Changed;
            }
            if hook.reinvocation == Reinvocation::IfNeeded {
                self.asked.insert(hook.uid.clone());
            }
        }
        self.left.clone_from(object);
        Ok(outcome)
    }

    /// Asks those again that want to be when the object was changed after them. It happens once.
    ///
    /// # Errors
    /// The first refusal.
    pub(crate) async fn second(&mut self, object: &mut Value, old: &Value) -> Result<(), Status> {
        if *object != self.left {
            self.again.extend(self.asked.drain());
        }
        let hooks = self.hooks.clone();
        for hook in hooks.iter() {
            let wanted = self.admission.wanted(hook, object, old).await?;
            if let Some(seen) = wanted.filter(|_| self.again.contains(&hook.uid)) {
                self.ask(hook, seen, object, old).await?;
            }
        }
        Ok(())
    }

    async fn ask(
        &mut self,
        hook: &Hook,
        seen: &'static Resource,
        object: &mut Value,
        old: &Value,
    ) -> Result<Outcome, Status> {
        let asked = self.admission.ask(hook, seen, (object, old), Mode::Mutating).await?;
        let Some(operations) = asked else { return Ok(Outcome::Same) };
        let patched = self.admission.patched(hook, seen, object, &operations)?;
        if patched == *object {
            return Ok(Outcome::Same);
        }
        *object = patched;
        self.again.extend(self.asked.drain());
        Ok(Outcome::Changed)
    }
}

/// The options of a request, as a review shows them.
pub(crate) fn options(kind: &str, manager: Option<&str>, dry_run: DryRun) -> Value {
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if let Some(manager) = manager {
        options["fieldManager"] = manager.into();
    }
    if dry_run == DryRun::All {
        options["dryRun"] = json!(["All"]);
    }
    options
}
