//! Amounts of resources in whole units: CPU in thousandths of a core, the rest as Kubernetes counts it.

use std::collections::BTreeMap;

use catamaran_api::quantity::Quantity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// An amount of each resource. Absent extended resources are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of local storage.
    pub storage: i64,
    /// Number of pods.
    pub pods: i64,
    /// Device plug-ins' and other resources by name.
    pub extended: BTreeMap<String, i64>,
}

impl Resources {
    /// From a list as in `resources.requests` or `status.allocatable`; what cannot be read counts as zero.
    #[must_use]
    pub fn from_list(list: &BTreeMap<String, Text>) -> Self {
        let mut all = Resources::default();
        for (name, text) in list {
            let Ok(quantity) = Quantity::parse(&text.0) else { continue };
            match name.as_str() {
                "cpu" => all.cpu_milli = quantity.milli_value(),
                "memory" => all.memory = quantity.value(),
                "ephemeral-storage" => all.storage = quantity.value(),
                "pods" => all.pods = quantity.value(),
                other => {
                    all.extended.insert(other.to_owned(), quantity.value());
                }
            }
        }
        all
    }

    /// Adds another amount.
    pub fn add(&mut self, other: &Resources) {
        self.combine(other, |a, b| a.saturating_add(b));
    }

    /// Takes another amount away.
    pub fn subtract(&mut self, other: &Resources) {
        self.combine(other, |a, b| a.saturating_sub(b));
    }

    /// The larger of both for each resource.
    pub fn raise_to(&mut self, other: &Resources) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Resources, with: impl Fn(i64, i64) -> i64) {
        self.cpu_milli = with(self.cpu_milli, other.cpu_milli);
        self.memory = with(self.memory, other.memory);
        self.storage = with(self.storage, other.storage);
        self.pods = with(self.pods, other.pods);
        for (name, amount) in &other.extended {
            let mine = self.extended.entry(name.clone()).or_default();
            *mine = with(*mine, *amount);
        }
    }

    /// Names of the resources of which `wanted` does not fit into what `used` leaves of this.
    #[must_use]
    pub fn lacking(&self, used: &Resources, wanted: &Resources) -> Vec<String> {
        let short = |wanted: i64, used: i64, all: i64| wanted > 0 && wanted > all.saturating_sub(used);
        let mut names = Vec::new();
        let plain = [
            ("cpu", wanted.cpu_milli, used.cpu_milli, self.cpu_milli),
            ("memory", wanted.memory, used.memory, self.memory),
            ("ephemeral-storage", wanted.storage, used.storage, self.storage),
        ];
        names.extend(plain.iter().filter(|(_, w, u, a)| short(*w, *u, *a)).map(|(n, ..)| (*n).to_owned()));
        for (name, amount) in &wanted.extended {
            let of = |list: &Resources| list.extended.get(name).copied().unwrap_or(0);
            if short(*amount, of(used), of(self)) {
                names.push(name.clone());
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(pairs: &[(&str, &str)]) -> Resources {
        Resources::from_list(&pairs.iter().map(|(n, q)| ((*n).to_owned(), Text((*q).to_owned()))).collect())
    }

    #[test]
    fn quantities_become_whole_units() {
        let all = list(&[("cpu", "1500m"), ("memory", "1Gi"), ("pods", "110"), ("example.com/fan", "2")]);
        assert_eq!((all.cpu_milli, all.memory, all.pods), (1500, 1 << 30, 110));
        assert_eq!(all.extended["example.com/fan"], 2);
        assert_eq!(list(&[("cpu", "nonsense")]), Resources::default());
    }

    #[test]
    fn what_lacks_is_named() {
        let all = list(&[("cpu", "2"), ("memory", "1Gi")]);
        let used = list(&[("cpu", "1500m")]);
        assert_eq!(all.lacking(&used, &list(&[("cpu", "500m"), ("memory", "1Gi")])), Vec::<String>::new());
        let much = list(&[("cpu", "501m"), ("memory", "2Gi"), ("example.com/fan", "1")]);
        assert_eq!(all.lacking(&used, &much), ["cpu", "memory", "example.com/fan"]);
        assert_eq!(list(&[]).lacking(&used, &list(&[("cpu", "0")])), Vec::<String>::new());
    }
}
