//! A store around the store: values are sealed on their way in and opened on their way out, also those before a
//! change and those of a conflict. Keys and revisions are the inner store's.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use catamaran_store::{Entry, Event, Expect, Page, Put, Range, Revision, Store, StoreError, Watch};

use super::config::Encryption;
use super::provider::CipherError;

/// Objects that are looked at in one step when keys are rotated.
const STEP: usize = 500;

/// The store that everybody but this file uses.
pub(crate) struct Encrypted {
    inner: Arc<dyn Store>,
    encryption: Arc<Encryption>,
}

impl Encrypted {
    pub(crate) fn new(inner: Arc<dyn Store>, encryption: Encryption) -> Self {
        Encrypted { inner, encryption: Arc::new(encryption) }
    }

    /// Writes anew what is not sealed with the key that writes today; returns how many that were. Afterwards the
    /// older keys are needed for the history only.
    ///
    /// # Errors
    /// When the store fails or a value cannot be opened.
    pub(crate) async fn rotate(&self) -> Result<usize, StoreError> {
        let mut range = Range { prefix: "/registry/".to_owned(), limit: Some(STEP), ..Range::default() };
        let mut written = 0;
        loop {
            let page = self.inner.range(range.clone()).await?;
            for entry in &page.entries {
                if !self.encryption.is_stale(&entry.key, &entry.value) {
                    continue;
                }
                let plain = open(&self.encryption, entry.clone())?.value;
                match self.put(&entry.key, plain, Expect::Revision(entry.mod_revision)).await {
                    Ok(_) => written += 1,
                    // Whoever was faster wrote with the new key.
                    Err(StoreError::Conflict { .. } | StoreError::NotFound) => {}
                    Err(error) => return Err(error),
                }
            }
            if page.remaining == 0 {
                return Ok(written);
            }
            range.start_after = page.entries.last().map(|entry| entry.key.to_string());
        }
    }

    fn open(&self, entry: Entry) -> Result<Entry, StoreError> {
        open(&self.encryption, entry)
    }

    fn explain(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Conflict { current: Some(entry) } => match self.open(entry) {
                Ok(entry) => StoreError::Conflict { current: Some(entry) },
                Err(error) => error,
            },
            other => other,
        }
    }
}

fn failed(step: &'static str) -> impl Fn(CipherError) -> StoreError {
    move |error| StoreError::Io { step, source: Arc::new(error) }
}

fn open(encryption: &Encryption, entry: Entry) -> Result<Entry, StoreError> {
    let value = encryption.open(&entry.key, entry.value).map_err(failed("decrypting an object"))?;
    Ok(Entry { value, ..entry })
}

fn open_event(encryption: &Encryption, event: &Arc<Event>) -> Result<Arc<Event>, StoreError> {
    let previous = event.previous.clone().map(|entry| open(encryption, entry)).transpose()?;
    let entry = open(encryption, event.entry.clone())?;
    Ok(Arc::new(Event { kind: event.kind, entry, previous }))
}

#[async_trait]
impl Store for Encrypted {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.inner.get(key).await?.map(|entry| self.open(entry)).transpose()
    }

    async fn get_at(&self, key: &str, revision: Revision) -> Result<Option<Entry>, StoreError> {
        self.inner.get_at(key, revision).await?.map(|entry| self.open(entry)).transpose()
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        let page = self.inner.range(range).await?;
        let entries = page.entries.into_iter().map(|entry| self.open(entry)).collect::<Result<_, _>>()?;
        Ok(Page { entries, ..page })
    }

    async fn count(&self, prefix: &str) -> Result<u64, StoreError> {
        self.inner.count(prefix).await
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Entry, StoreError> {
        let sealed = self.encryption.seal(key, value.clone()).map_err(failed("encrypting an object"))?;
        let entry = self.inner.put(key, sealed, expect).await.map_err(|error| self.explain(error))?;
        Ok(Entry { value, ..entry })
    }

    async fn put_all(&self, puts: Vec<Put>) -> Result<Vec<Entry>, StoreError> {
        let values: Vec<Bytes> = puts.iter().map(|put| put.value.clone()).collect();
        let seal = |put: Put| {
            let value = self.encryption.seal(&put.key, put.value).map_err(failed("encrypting an object"))?;
            Ok(Put { value, ..put })
        };
        let sealed = puts.into_iter().map(seal).collect::<Result<_, StoreError>>()?;
        let entries = self.inner.put_all(sealed).await.map_err(|error| self.explain(error))?;
        Ok(entries.into_iter().zip(values).map(|(entry, value)| Entry { value, ..entry }).collect())
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<Entry, StoreError> {
        let entry = self.inner.delete(key, expect).await.map_err(|error| self.explain(error))?;
        self.open(entry)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        let encryption = self.encryption.clone();
        let watch = self.inner.watch(prefix, after).await?;
        Ok(watch.translated(move |event| open_event(&encryption, event)))
    }

    fn revision(&self) -> Revision {
        self.inner.revision()
    }

    fn revisions(&self) -> tokio::sync::watch::Receiver<Revision> {
        self.inner.revisions()
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }

    fn compacted(&self) -> Revision {
        self.inner.compacted()
    }
}

#[cfg(test)]
mod tests {
    use catamaran_store::{EventKind, MemoryStore};

    use super::*;

    const KEY: &str = "/registry/core/secrets/d/s";

    fn encryption(names: &str) -> Encryption {
        let keys: Vec<String> = names
            .chars()
            .map(|name| {
                let secret =
                    if name == 'a' { "YWFhYWFhYWFhYWFhYWFhYQ==" } else { "YmJiYmJiYmJiYmJiYmJiYg==" };
                format!("{{name: {name}, secret: {secret}}}")
            })
            .collect();
        let text = format!(
            "{{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: [{{resources: [secrets], \
             providers: [{{aesgcm: {{keys: [{}]}}}}, {{identity: {{}}}}]}}]}}",
            keys.join(", ")
        );
        Encryption::parse(text.as_bytes()).unwrap()
    }

    fn value(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[tokio::test]
    async fn nobody_outside_notices() {
        let inner = Arc::new(MemoryStore::new());
        let store = Encrypted::new(inner.clone(), encryption("a"));
        let mut watch = store.watch("/registry/", 0).await.unwrap();
        let first = store.put(KEY, value("{1}"), Expect::Absent).await.unwrap();
        assert_eq!(first.value, "{1}");
        store.put(KEY, value("{2}"), Expect::Revision(first.mod_revision)).await.unwrap();
        let raw = inner.get(KEY).await.unwrap().unwrap().value;
        assert!(raw.starts_with(b"k8s:enc:aesgcm:v1:a:"));
        let put = Put { key: KEY.into(), value: value("{2}"), expect: Expect::Any };
        assert_eq!(store.put_all(vec![put]).await.unwrap()[0].value, "{2}");
        assert!(inner.get(KEY).await.unwrap().unwrap().value.starts_with(b"k8s:enc:"));
        let conflict = store.put(KEY, value("{3}"), Expect::Absent).await.unwrap_err();
        assert!(matches!(conflict, StoreError::Conflict { current: Some(entry) } if entry.value == "{2}"));
        assert_eq!(store.get(KEY).await.unwrap().unwrap().value, "{2}");
        assert_eq!(store.get_at(KEY, 1).await.unwrap().unwrap().value, "{1}");
        let page = store.range(Range { prefix: "/registry/".into(), ..Range::default() }).await.unwrap();
        assert_eq!(page.entries[0].value, "{2}");
        assert_eq!(store.delete(KEY, Expect::Any).await.unwrap().value, "{2}");
        let mut seen = Vec::new();
        while seen.len() < 4 {
            seen.extend(watch.next().await.unwrap().unwrap());
        }
        assert_eq!(seen[1].entry.value, "{2}");
        assert_eq!(seen[1].previous.as_ref().unwrap().value, "{1}");
        assert_eq!((seen[3].kind, &seen[3].entry.value), (EventKind::Delete, &value("{2}")));
        assert_eq!(watch.progress(), Some(4));
    }

    #[tokio::test]
    async fn keys_are_rotated() {
        let inner = Arc::new(MemoryStore::new());
        let other = "/registry/core/configmaps/d/c";
        for key in [KEY, other] {
            inner.put(key, value("{}"), Expect::Absent).await.unwrap();
        }
        let stored = async |key| inner.get(key).await.unwrap().unwrap();
        for (names, expected) in [("a", "aesgcm:v1:a:"), ("ba", "aesgcm:v1:b:")] {
            let store = Encrypted::new(inner.clone(), encryption(names));
            assert_eq!(store.rotate().await.unwrap(), 1);
            assert!(stored(KEY).await.value.starts_with(format!("k8s:enc:{expected}").as_bytes()));
            assert_eq!(store.get(KEY).await.unwrap().unwrap().value, "{}");
            assert_eq!(store.rotate().await.unwrap(), 0, "once is enough");
        }
        assert_eq!(stored(other).await.value, "{}");
        let without = Encrypted::new(inner.clone(), encryption("a"));
        let error = without.get(KEY).await.unwrap_err();
        assert!(matches!(error, StoreError::Io { step: "decrypting an object", .. }));
    }
}
