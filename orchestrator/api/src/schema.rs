//! The schema table: every type of the served API with its fields, list types, merge keys, defaults and protobuf numbers.
//! The table is a text file that `orchestrator/api/generate` writes; it is read once, on first use, into about 300 KiB.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use crate::kind::{GroupVersionKind, Resource};

mod descriptions;
mod parse;

pub use descriptions::Descriptions;

/// The type of a schema inside a custom resource definition.
pub(crate) const JSON_SCHEMA: &str =
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// The shape of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A string.
    String,
    /// Base64 text in JSON, bytes in protobuf.
    Bytes,
    /// A boolean.
    Bool,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// A floating-point number.
    Double,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// Text such as `1m30s`.
    Duration,
    /// `500m`, `1Gi`; a number is accepted.
    Quantity,
    /// A 32-bit integer or a string.
    IntOrString,
    /// An object of any type.
    Raw,
    /// The field set of server-side apply.
    Fields,
    /// Any JSON value.
    Json,
    /// In a CRD's schema: a schema or a list of schemas.
    SchemaOrArray,
    /// In a CRD's schema: a schema or a boolean.
    SchemaOrBool,
    /// In a CRD's schema: a schema or a list of strings.
    SchemaOrStrings,
    /// A struct of the table.
    Struct(StructId),
    /// A list.
    List(ItemId),
    /// An object with free keys.
    Map(ItemId),
}

/// The place of a struct in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StructId(u16);

/// The place of the element type of a list or map in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemId(u16);

impl Type {
    /// The struct that a value of this type is.
    pub fn as_struct(self) -> Option<&'static Struct> {
        match self {
            Type::Struct(id) => Some(&TABLE.structs[usize::from(id.0)]),
            _ => None,
        }
    }

    /// The type of the elements of a list or of the values of a map.
    pub fn item(self) -> Option<Type> {
        match self {
            Type::List(id) | Type::Map(id) => Some(TABLE.items[usize::from(id.0)]),
            _ => None,
        }
    }

    /// The struct that a list's elements or a map's values are.
    pub fn item_struct(self) -> Option<&'static Struct> {
        self.item().and_then(Type::as_struct)
    }

    /// A number or boolean: no text and no message in protobuf.
    pub const fn is_number(self) -> bool {
        matches!(self, Type::Bool | Type::Int32 | Type::Int64 | Type::Double)
    }

    /// A number, text or boolean.
    pub const fn is_scalar(self) -> bool {
        !matches!(
            self,
            Type::Struct(_)
                | Type::List(_)
                | Type::Map(_)
                | Type::Raw
                | Type::Fields
                | Type::Json
                | Type::SchemaOrArray
                | Type::SchemaOrBool
                | Type::SchemaOrStrings
        )
    }
}

/// How elements of a list belong together under server-side apply (`x-kubernetes-list-type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// The list is one value.
    #[default]
    Atomic,
    /// Each element is owned by itself.
    Set,
    /// Elements are told apart by the fields in `list_map_keys`.
    Map,
}

/// How fields of an object belong together under server-side apply (`x-kubernetes-map-type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MapType {
    /// Each field is owned by itself.
    #[default]
    Granular,
    /// The object is one value.
    Atomic,
}

/// What a strategic merge patch does with a list (`x-kubernetes-patch-strategy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListStrategy {
    /// The patch's list takes the place of the old one.
    #[default]
    Replace,
    /// Elements are merged by the merge key, or as a set where there is none.
    Merge,
}

/// What few fields have.
#[derive(Debug, Default)]
struct Extra {
    list_type: Option<ListType>,
    list_map_keys: &'static [&'static str],
    merge: bool,
    replace: bool,
    retain_keys: bool,
    merge_key: Option<&'static str>,
    map_type: Option<MapType>,
    default: Option<&'static str>,
    values: &'static [String],
}

static PLAIN: Extra = Extra {
    list_type: None,
    list_map_keys: &[],
    merge: false,
    replace: false,
    retain_keys: false,
    merge_key: None,
    map_type: None,
    default: None,
    values: &[],
};

/// One field of a struct.
#[derive(Debug)]
pub struct Field {
    /// Name in JSON.
    pub name: &'static str,
    /// Shape of the value.
    pub ty: Type,
    /// The published schema lists it as required.
    pub required: bool,
    /// A zero value says something else than absence (Go: a pointer, or no `omitempty`); for a struct: it is never left out.
    pub always: bool,
    /// Protobuf numbers from the outside to the inside, ended by 0; more than one where JSON inlines a nested message.
    pub tags: [u8; 3],
    extra: &'static Extra,
}

impl Field {
    /// How server-side apply treats the elements of this list; `None` where the schema says nothing (then it is atomic).
    pub fn list_type(&self) -> Option<ListType> {
        self.extra.list_type
    }

    /// The fields that tell elements apart in a list of type map.
    pub fn list_map_keys(&self) -> &'static [&'static str] {
        self.extra.list_map_keys
    }

    /// What a strategic merge patch does with this list.
    pub fn list_strategy(&self) -> ListStrategy {
        if self.extra.merge { ListStrategy::Merge } else { ListStrategy::Replace }
    }

    /// A strategic merge patch replaces this object (`patchStrategy: replace`).
    pub fn replaced(&self) -> bool {
        self.extra.replace
    }

    /// A strategic merge patch with `$retainKeys` may drop keys here.
    pub fn retain_keys(&self) -> bool {
        self.extra.retain_keys
    }

    /// The text of `x-kubernetes-patch-strategy`.
    pub fn patch_strategy(&self) -> Option<&'static str> {
        match (self.extra.merge, self.extra.retain_keys, self.extra.replace) {
            (true, true, _) => Some("merge,retainKeys"),
            (true, false, _) => Some("merge"),
            (false, true, _) => Some("retainKeys"),
            (false, false, true) => Some("replace"),
            (false, false, false) => None,
        }
    }

    /// The field by which a strategic merge patch finds elements; none in lists of scalars.
    pub fn patch_merge_key(&self) -> Option<&'static str> {
        self.extra.merge_key
    }

    /// Whether server-side apply takes the value as one: said at the field or at its struct.
    pub fn map_type(&self) -> MapType {
        let of_struct = || self.ty.as_struct().map(|s| s.map_type);
        self.extra.map_type.or_else(of_struct).unwrap_or_default()
    }

    /// What the field itself says of its map type, for published schemas.
    pub fn own_map_type(&self) -> Option<MapType> {
        self.extra.map_type
    }

    /// The default as JSON text.
    pub fn default_json(&self) -> Option<&'static str> {
        self.extra.default
    }

    /// Whether Kubernetes writes the field with this value: optional fields with no text, zero, false, an empty list or map are left out.
    pub fn leaves_out(&self, value: &Value) -> bool {
        if self.always {
            return false;
        }
        match (self.ty, value) {
            (Type::Map(_), Value::Object(entries)) => entries.is_empty(),
            (Type::List(_), Value::Array(items)) => items.is_empty(),
            (Type::String | Type::Bytes, Value::String(text)) => text.is_empty(),
            (Type::Bool, Value::Bool(value)) => !value,
            (Type::Int32 | Type::Int64, Value::Number(number)) => number.as_i64() == Some(0),
            _ => false,
        }
    }

    /// The values that there are, where they are a closed set.
    pub fn values(&self) -> &'static [String] {
        self.extra.values
    }
}

/// One type of the table.
#[derive(Debug)]
pub struct Struct {
    /// Full name such as `io.k8s.api.core.v1.Pod`.
    pub name: &'static str,
    /// Fields by name, ascending.
    pub fields: &'static [Field],
    /// How server-side apply treats it.
    pub map_type: MapType,
    /// The kind that it is, for a whole object.
    pub gvk: Option<GroupVersionKind>,
    id: StructId,
    /// Number of its line in the file of descriptions; its fields follow.
    line: u16,
    /// For each protobuf number what it holds.
    by_tag: Box<[Tagged]>,
}

/// What a number of a message holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tagged {
    /// Nothing that this version knows.
    Unknown,
    /// The field at this place.
    Field(u8),
    /// A message whose fields JSON inlines.
    Inlined,
}

impl Struct {
    /// What a protobuf number of the message itself holds.
    pub(crate) fn tagged(&self, tag: u8) -> Tagged {
        self.by_tag.get(usize::from(tag)).copied().unwrap_or(Tagged::Unknown)
    }

    /// The field of that name.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.index(name).map(|i| &self.fields[i])
    }

    /// The place of the field of that name in `fields`.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.fields.binary_search_by(|field| field.name.cmp(name)).ok()
    }

    /// Last part of the name.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// As a type.
    pub const fn as_type(&self) -> Type {
        Type::Struct(self.id)
    }
}

/// A named type that is no struct, such as a quantity.
#[derive(Debug)]
pub(crate) struct Special {
    pub(crate) name: &'static str,
    line: u16,
}

struct Table {
    structs: Vec<Struct>,
    items: Vec<Type>,
    specials: Vec<Special>,
    by_name: HashMap<&'static str, StructId>,
    by_kind: HashMap<(&'static str, &'static str, &'static str), StructId>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| parse::table(include_str!("schema/table.txt")));

/// Every struct, by name ascending.
pub fn structs() -> &'static [Struct] {
    &TABLE.structs
}

pub(crate) fn specials() -> &'static [Special] {
    &TABLE.specials
}

/// The struct of that full name.
pub fn named(name: &str) -> Option<&'static Struct> {
    TABLE.by_name.get(name).map(|id| &TABLE.structs[usize::from(id.0)])
}

/// The struct of a kind: a resource, its list, or another body such as `Scale`, `Eviction`, `DeleteOptions` or `Status`.
pub fn of_kind(group: &str, version: &str, kind: &str) -> Option<&'static Struct> {
    // Delete options and statuses exist in every group version.
    let (group, version) =
        if matches!(kind, "DeleteOptions" | "Status" | "WatchEvent") { ("", "v1") } else { (group, version) };
    TABLE.by_kind.get(&(group, version, kind)).map(|id| &TABLE.structs[usize::from(id.0)])
}

/// The struct of a resource's objects.
pub fn of(resource: &Resource) -> &'static Struct {
    of_kind(resource.group, resource.version, resource.kind)
        .expect("a test checks that every resource of the kind table is in the schema table")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind;

    fn pod_spec() -> &'static Struct {
        named("io.k8s.api.core.v1.PodSpec").unwrap()
    }

    #[test]
    fn every_resource_list_and_subresource_has_a_schema() {
        for r in kind::resources() {
            assert_eq!(of(r).gvk, Some(r.gvk()));
            if r.allows(kind::Verb::List) {
                assert!(of_kind(r.group, r.version, r.list_kind).is_some(), "{}", r.list_kind);
            }
            for sub in r.subresources.iter().filter(|s| !s.kind.kind.ends_with("Options")) {
                assert!(of_kind(sub.kind.group, sub.kind.version, sub.kind.kind).is_some(), "{:?}", sub.kind);
            }
        }
        assert!(of_kind("apps", "v1", "DeleteOptions").is_some());
    }

    #[test]
    fn structs_fit_the_decoder() {
        for s in structs() {
            assert!(s.fields.len() <= 128, "{} has too many fields for the set of seen fields", s.name);
            assert!(s.fields.is_sorted_by(|a, b| a.name < b.name), "{}", s.name);
        }
    }

    #[test]
    fn merge_keys_differ_between_the_two_merges_where_kubernetes_has_it_so() {
        let ports = pod_spec().field("containers").unwrap().ty.item_struct().unwrap().field("ports").unwrap();
        assert_eq!(ports.patch_merge_key(), Some("containerPort"));
        assert_eq!(ports.list_strategy(), ListStrategy::Merge);
        assert_eq!(ports.list_type(), Some(ListType::Map));
        assert_eq!(ports.list_map_keys(), ["containerPort", "protocol"]);
        assert_eq!(
            ports.ty.item_struct().unwrap().field("protocol").unwrap().default_json(),
            Some("\"TCP\"")
        );
    }

    #[test]
    fn strategies_and_map_types_are_read() {
        let volumes = pod_spec().field("volumes").unwrap();
        assert_eq!(volumes.patch_strategy(), Some("merge,retainKeys"));
        assert_eq!(pod_spec().field("nodeSelector").unwrap().map_type(), MapType::Atomic);
        assert_eq!(
            named("io.k8s.api.apps.v1.DeploymentSpec").unwrap().field("selector").unwrap().map_type(),
            MapType::Atomic
        );
        let finalizers =
            named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").unwrap().field("finalizers").unwrap();
        assert_eq!((finalizers.list_type(), finalizers.patch_merge_key()), (Some(ListType::Set), None));
    }

    #[test]
    fn counts_agree_with_the_published_schemas() {
        let fields = || structs().iter().flat_map(|s| s.fields);
        assert_eq!(fields().filter(|f| f.list_type() == Some(ListType::Set)).count(), 14);
        assert!(fields().filter(|f| f.list_type() == Some(ListType::Map)).count() >= 50);
        assert!(fields().filter(|f| f.patch_strategy().is_some()).count() >= 55);
        // Every field outside the envelope has a protobuf number.
        let without: Vec<_> = fields().filter(|f| f.tags[0] == 0).map(|f| f.name).collect();
        assert!(without.iter().all(|name| matches!(*name, "apiVersion" | "kind")), "{without:?}");
    }

    #[test]
    fn inlined_structs_have_paths_of_numbers() {
        let volume = named("io.k8s.api.core.v1.Volume").unwrap();
        assert_eq!(volume.field("hostPath").unwrap().tags, [2, 1, 0]);
        let rule = named("io.k8s.api.admissionregistration.v1.NamedRuleWithOperations").unwrap();
        assert_eq!(rule.field("scope").unwrap().tags, [2, 2, 4]);
    }

    #[test]
    fn descriptions_belong_to_their_lines() {
        let descriptions = Descriptions::read();
        let pod = named("io.k8s.api.core.v1.Pod").unwrap();
        assert!(descriptions.of_struct(pod).starts_with("Pod is a collection of containers"));
        let spec = pod.index("spec").unwrap();
        assert!(
            descriptions.of_field(pod, spec).starts_with("Specification of the desired behavior of the pod.")
        );
    }
}
