//! One watched kind in memory: the objects, indexes over them, and handlers that hear of each change.
//!
//! A cache is fed by `kube_runtime::watcher`. A relist fills a buffer and is swapped in at once, so nobody
//! ever reads half a list. Handlers are called by the pump after the maps are up to date, in the order of
//! the events; they must be short and must not block (put a key into a queue).

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::fmt::Debug;
use std::hash::Hash;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::error::Chain;
use crate::object;

/// The first pause after the watch failed; it doubles up to [`LAST_PAUSE`]. Short, since a server that was
/// killed is back within a fraction of a second.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between two tries to watch.
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Namespace (empty for cluster scope) and name of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Empty for objects without a namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl Key {
    /// The key of `name` in `namespace`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of any object.
    pub fn of<T: Resource>(object: &T) -> Self {
        let meta = object.meta();
        Self::new(object::namespace(meta), object::name(meta))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// What happened to an object.
#[derive(Debug)]
pub enum Change<'a, T> {
    /// It was added, or changed.
    Applied {
        /// What was known before; absent when the object is new.
        old: Option<&'a Arc<T>>,
        /// What it is now.
        new: &'a Arc<T>,
    },
    /// It is gone.
    Deleted {
        /// Its last known state.
        old: &'a Arc<T>,
    },
}

impl<'a, T> Change<'a, T> {
    /// The newest known state of the object.
    #[must_use]
    pub fn object(&self) -> &'a Arc<T> {
        match self {
            Self::Applied { new, .. } => new,
            Self::Deleted { old } => old,
        }
    }

    /// The states to look at when a change of what the object refers to matters: the old and the new one.
    pub fn states(&self) -> impl Iterator<Item = &'a Arc<T>> + use<'a, T> {
        let (old, new) = match self {
            Self::Applied { old, new } => (*old, Some(*new)),
            Self::Deleted { old } => (Some(*old), None),
        };
        old.into_iter().chain(new)
    }
}

/// What a cache can hold: any kind, and any slim form of one.
pub trait Cached: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static {}
impl<T: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static> Cached for T {}

type Handler<T> = Box<dyn Fn(&Change<'_, T>) + Send + Sync>;
type Trim<T> = Box<dyn Fn(&mut T) + Send + Sync>;

/// The objects of one kind; cheap to clone, all clones are the same cache.
pub struct Cache<T> {
    inner: Arc<Inner<T>>,
}

impl<T> Clone for Cache<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<T> {
    api: Api<T>,
    config: watcher::Config,
    objects: RwLock<HashMap<Key, Arc<T>>>,
    /// Held for the whole of a change, so that a handler that is added meets each change exactly once.
    listeners: Mutex<Listeners<T>>,
    progress: watch::Sender<Progress>,
}

struct Listeners<T> {
    trim: Option<Trim<T>>,
    indexes: Vec<Arc<dyn Indexed<T>>>,
    handlers: Vec<Handler<T>>,
}

/// How far a cache is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Has the first list arrived whole?
    pub ready: bool,
    /// The highest revision of an object that was seen. A write with this revision, and every earlier write
    /// to this kind, is in the cache.
    pub revision: u64,
}

impl<T: Cached> Cache<T> {
    /// A cache of what `api` and `config` select; empty until [`Cache::run`] runs.
    pub fn new(api: Api<T>, config: watcher::Config) -> Self {
        let listeners = Listeners { trim: None, indexes: Vec::new(), handlers: Vec::new() };
        Self {
            inner: Arc::new(Inner {
                api,
                config,
                objects: RwLock::default(),
                listeners: Mutex::new(listeners),
                progress: watch::Sender::new(Progress::default()),
            }),
        }
    }

    /// Drops from each object what nobody reads, before it is kept. Call it before [`Cache::run`].
    #[must_use]
    pub fn trimmed(self, trim: impl Fn(&mut T) + Send + Sync + 'static) -> Self {
        self.listeners().trim = Some(Box::new(trim));
        self
    }

    /// Keeps the objects findable by the values that `values` hands to its second argument.
    pub fn index<V, F>(&self, values: F) -> Index<T, V>
    where
        V: Hash + Eq + Send + Sync + 'static,
        F: Fn(&T, &mut dyn FnMut(V)) + Send + Sync + 'static,
    {
        let index = Arc::new(IndexOf { values: Box::new(values), map: RwLock::default() });
        let mut listeners = self.listeners();
        for (key, object) in self.objects().iter() {
            index.update(key, None, Some(object));
        }
        listeners.indexes.push(Arc::clone(&index) as Arc<dyn Indexed<T>>);
        Index { inner: index }
    }

    /// Calls `handler` for each change from now on, and first for each object that is already known.
    pub fn on_change(&self, handler: impl Fn(&Change<'_, T>) + Send + Sync + 'static) {
        let mut listeners = self.listeners();
        for object in self.list() {
            handler(&Change::Applied { old: None, new: &object });
        }
        listeners.handlers.push(Box::new(handler));
    }

    /// One object.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<T>> {
        self.objects().get(key).cloned()
    }

    /// All objects, in no order. This copies a pointer for each: use an index where there is one.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<T>> {
        self.objects().values().cloned().collect()
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects().len()
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects().is_empty()
    }

    /// Calls `f` with each object while no change can happen; `f` must be short.
    pub fn for_each(&self, mut f: impl FnMut(&Key, &Arc<T>)) {
        for (key, object) in self.objects().iter() {
            f(key, object);
        }
    }

    /// Waits until the first list has arrived whole.
    pub async fn ready(&self) {
        let mut progress = self.inner.progress.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let _ = progress.wait_for(|progress| progress.ready).await;
    }

    /// How far the cache is now.
    #[must_use]
    pub fn progress(&self) -> Progress {
        *self.inner.progress.borrow()
    }

    /// Has the cache seen the write that made revision `revision` of an object of its kind?
    #[must_use]
    pub fn has_seen(&self, revision: u64) -> bool {
        self.progress().revision >= revision
    }

    /// Waits until the cache has seen the write that made `revision` of an object of its kind.
    pub async fn seen(&self, revision: u64) {
        let mut progress = self.inner.progress.subscribe();
        let _ = progress.wait_for(|progress| progress.revision >= revision).await;
    }

    /// Feeds the cache, forever. Errors are logged and tried again; what is known stays meanwhile.
    pub async fn run(self) {
        let mut events = pin!(watcher(self.inner.api.clone(), self.inner.config.clone()));
        let mut buffer: HashMap<Key, T> = HashMap::new();
        let mut pause = FIRST_PAUSE;
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => buffer.clear(),
                Ok(watcher::Event::InitApply(object)) => {
                    buffer.insert(Key::of(&object), object);
                }
                Ok(watcher::Event::InitDone) => {
                    self.replace(std::mem::take(&mut buffer));
                    pause = FIRST_PAUSE;
                }
                Ok(watcher::Event::Apply(object)) => {
                    self.apply(object);
                    pause = FIRST_PAUSE;
                }
                Ok(watcher::Event::Delete(object)) => self.delete(&object),
                Err(error) => {
                    self.report(&error, pause);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                }
            }
        }
    }

    fn report(&self, error: &watcher::Error, pause: Duration) {
        let url = self.inner.api.resource_url();
        // A server that restarts is away for a moment; only a longer absence is worth a warning.
        if pause < Duration::from_secs(1) {
            debug!(url, error = %Chain(error), "the watch failed and is tried again");
        } else {
            warn!(url, error = %Chain(error), "the watch keeps failing and is tried again");
        }
    }

    /// Takes in one object that was added or changed.
    fn apply(&self, mut object: T) {
        let revision = object::revision(object.meta());
        let key = Key::of(&object);
        let listeners = self.listeners();
        if let Some(trim) = &listeners.trim {
            trim(&mut object);
        }
        let new = Arc::new(object);
        let old = self.objects_mut().insert(key.clone(), Arc::clone(&new));
        listeners.reindex(&key, old.as_ref(), Some(&new));
        self.advance(revision);
        listeners.tell(&Change::Applied { old: old.as_ref(), new: &new });
    }

    fn delete(&self, object: &T) {
        let listeners = self.listeners();
        let key = Key::of(object);
        let old = self.objects_mut().remove(&key);
        listeners.reindex(&key, old.as_ref(), None);
        self.advance(object::revision(object.meta()));
        if let Some(old) = old {
            listeners.tell(&Change::Deleted { old: &old });
        }
    }

    /// Swaps in a whole list and tells the handlers what is different.
    fn replace(&self, list: HashMap<Key, T>) {
        let listeners = self.listeners();
        let mut revision = 0;
        let mut fresh: HashMap<Key, Arc<T>> = HashMap::with_capacity(list.len());
        for (key, mut object) in list {
            revision = revision.max(object::revision(object.meta()));
            if let Some(trim) = &listeners.trim {
                trim(&mut object);
            }
            fresh.insert(key, Arc::new(object));
        }
        let mut gone = std::mem::replace(&mut *self.objects_mut(), fresh.clone());
        let mut changed = Vec::new();
        for (key, new) in &fresh {
            let before = gone.remove(key);
            if !before.as_ref().is_some_and(|before| is_same(before.meta(), new.meta())) {
                listeners.reindex(key, before.as_ref(), Some(new));
                changed.push((before, new));
            }
        }
        for (key, old) in &gone {
            listeners.reindex(key, Some(old), None);
        }
        self.inner.progress.send_modify(|progress| progress.ready = true);
        self.advance(revision);
        for (old, new) in changed {
            listeners.tell(&Change::Applied { old: old.as_ref(), new });
        }
        for old in gone.values() {
            listeners.tell(&Change::Deleted { old });
        }
    }

    fn advance(&self, revision: u64) {
        self.inner.progress.send_if_modified(|progress| {
            let newer = revision > progress.revision;
            progress.revision = progress.revision.max(revision);
            newer
        });
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, Listeners<T>> {
        self.inner.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn objects(&self) -> RwLockReadGuard<'_, HashMap<Key, Arc<T>>> {
        self.inner.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn objects_mut(&self) -> RwLockWriteGuard<'_, HashMap<Key, Arc<T>>> {
        self.inner.objects.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Listeners<T> {
    fn reindex(&self, key: &Key, old: Option<&Arc<T>>, new: Option<&Arc<T>>) {
        for index in &self.indexes {
            index.update(key, old, new);
        }
    }

    /// Called when maps, indexes and progress are up to date, for a handler's reader may be quicker than we.
    fn tell(&self, change: &Change<'_, T>) {
        for handler in &self.handlers {
            handler(change);
        }
    }
}

fn is_same(one: &ObjectMeta, other: &ObjectMeta) -> bool {
    one.uid == other.uid && one.resource_version == other.resource_version
}

/// The objects of a cache by a value of theirs; cheap to clone.
pub struct Index<T, V> {
    inner: Arc<IndexOf<T, V>>,
}

impl<T, V> Clone for Index<T, V> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<T, V: Hash + Eq> Index<T, V> {
    /// The objects with this value, in no order.
    #[must_use]
    pub fn get<Q: Hash + Eq + ?Sized>(&self, value: &Q) -> Vec<Arc<T>>
    where
        V: Borrow<Q>,
    {
        let map = self.inner.map.read().unwrap_or_else(PoisonError::into_inner);
        map.get(value).map(|objects| objects.values().cloned().collect()).unwrap_or_default()
    }

    /// How many objects have this value.
    #[must_use]
    pub fn count<Q: Hash + Eq + ?Sized>(&self, value: &Q) -> usize
    where
        V: Borrow<Q>,
    {
        self.inner.map.read().unwrap_or_else(PoisonError::into_inner).get(value).map_or(0, HashMap::len)
    }
}

type Values<T, V> = Box<dyn Fn(&T, &mut dyn FnMut(V)) + Send + Sync>;

struct IndexOf<T, V> {
    values: Values<T, V>,
    map: RwLock<HashMap<V, HashMap<Key, Arc<T>>>>,
}

trait Indexed<T>: Send + Sync {
    fn update(&self, key: &Key, old: Option<&Arc<T>>, new: Option<&Arc<T>>);
}

impl<T: Send + Sync, V: Hash + Eq + Send + Sync> Indexed<T> for IndexOf<T, V> {
    fn update(&self, key: &Key, old: Option<&Arc<T>>, new: Option<&Arc<T>>) {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = old {
            (self.values)(old, &mut |value| {
                if let Some(objects) = map.get_mut(&value) {
                    objects.remove(key);
                    if objects.is_empty() {
                        map.remove(&value);
                    }
                }
            });
        }
        if let Some(new) = new {
            (self.values)(new, &mut |value| {
                map.entry(value).or_default().insert(key.clone(), Arc::clone(new));
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::client::Body;
    use tower::BoxError;

    use super::*;

    fn map(name: &str, revision: u64, team: &str) -> ConfigMap {
        serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "ns", "name": name, "uid": name, "resourceVersion": revision.to_string(),
                         "labels": {"team": team}}
        }))
        .unwrap()
    }

    fn cache() -> Cache<ConfigMap> {
        let service = tower::service_fn(|_: Request<Body>| async {
            Ok::<_, BoxError>(Response::builder().status(500).body(Body::empty())?)
        });
        let client = kube::Client::new(service, "default");
        Cache::new(Api::all(client), watcher::Config::default())
    }

    fn list(objects: Vec<ConfigMap>) -> HashMap<Key, ConfigMap> {
        objects.into_iter().map(|object| (Key::of(&object), object)).collect()
    }

    fn log(cache: &Cache<ConfigMap>) -> Arc<Mutex<Vec<String>>> {
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&log);
        cache.on_change(move |change| {
            let name = object::name(&change.object().metadata).to_owned();
            let kind = match change {
                Change::Applied { old: None, .. } => "+",
                Change::Applied { .. } => "~",
                Change::Deleted { .. } => "-",
            };
            sink.lock().unwrap().push(format!("{kind}{name}"));
        });
        log
    }

    fn drain(log: &Mutex<Vec<String>>) -> Vec<String> {
        let mut lines = std::mem::take(&mut *log.lock().unwrap());
        lines.sort();
        lines
    }

    #[tokio::test]
    async fn a_relist_tells_only_the_differences() {
        let cache = cache();
        let log = log(&cache);
        cache.replace(list(vec![map("a", 1, "x"), map("b", 2, "x"), map("c", 3, "y")]));
        assert_eq!(drain(&log), ["+a", "+b", "+c"]);
        assert_eq!(cache.progress(), Progress { ready: true, revision: 3 });
        cache.replace(list(vec![map("a", 1, "x"), map("b", 5, "x")]));
        assert_eq!(drain(&log), ["-c", "~b"]);
        assert_eq!(cache.progress().revision, 5);
    }

    #[tokio::test]
    async fn an_object_made_anew_under_its_name_counts_as_changed() {
        let cache = cache();
        let log = log(&cache);
        cache.replace(list(vec![map("a", 1, "x")]));
        drain(&log);
        let mut again = map("a", 1, "x");
        again.metadata.uid = Some("other".into());
        cache.replace(list(vec![again]));
        assert_eq!(drain(&log), ["~a"]);
    }

    #[tokio::test]
    async fn an_index_follows_changes_and_deletions() {
        let cache = cache();
        cache.apply(map("a", 1, "x"));
        let teams = cache.index(|object: &ConfigMap, add| {
            add(object::label(&object.metadata, "team").unwrap_or_default().to_owned());
        });
        assert_eq!(teams.count("x"), 1, "what was there before is indexed");
        cache.apply(map("b", 2, "x"));
        cache.apply(map("a", 3, "y"));
        assert_eq!((teams.count("x"), teams.count("y")), (1, 1));
        cache.delete(&map("b", 4, "x"));
        assert_eq!((teams.count("x"), teams.count("y")), (0, 1));
        assert!(cache.has_seen(4));
        assert!(!cache.has_seen(5));
    }

    #[tokio::test]
    async fn a_late_handler_hears_of_what_is_there() {
        let cache = cache();
        cache.apply(map("a", 1, "x"));
        let log = log(&cache);
        cache.apply(map("a", 2, "x"));
        cache.delete(&map("a", 3, "x"));
        assert_eq!(*log.lock().unwrap(), ["+a", "~a", "-a"]);
    }
}
