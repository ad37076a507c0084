//! What the schema says about a value, as far as ownership of fields goes.

use serde_json::{Map, Value};

use super::element::{Element, Scalar};
use crate::schema::{self, Field, ListType, MapType, Struct, Type};

/// The shape of a value.
#[derive(Clone, Copy, Debug)]
pub enum Shape<'a> {
    /// A scalar or something that is owned as a whole.
    Leaf,
    /// An object with named fields.
    Struct(&'static Struct),
    /// An object with free keys.
    Map(Type),
    /// A list whose members are owned one by one.
    Set,
    /// A list whose items are told apart by key fields.
    Keyed(&'static Field),
    /// Part of a custom resource, with its JSON schema.
    Custom(&'a Value),
    /// A whole custom resource, with its JSON schema.
    CustomRoot(&'a Value),
    /// Nothing is known: objects are granular, lists are owned as a whole.
    Deduced,
}

/// How a pair of values is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Leaf,
    Object,
    Set,
    Keyed,
}

/// A field's shape, and whether the schema names the field.
pub(super) struct FieldShape<'a> {
    pub(super) shape: Shape<'a>,
    pub(super) named: bool,
}

/// Why an item cannot be found by its key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyError {
    #[error("associative list with keys may not have non-map elements")]
    NotAMap,
    #[error(
        "associative list with keys has an element that omits all key fields {0:?} (and doesn't have default values for any key fields)"
    )]
    KeysMissing(Vec<String>),
    #[error("associative list without keys has an element that's no scalar")]
    NotAScalar,
}

impl<'a> Shape<'a> {
    /// A whole object of a built-in kind.
    pub fn of_struct(of: &'static Struct) -> Shape<'static> {
        Shape::Struct(of)
    }

    /// A whole custom resource.
    pub fn custom(schema: &'a Value) -> Shape<'a> {
        Shape::CustomRoot(schema)
    }

    fn of_type(ty: Type, map_type: MapType) -> Shape<'static> {
        match (ty, ty.as_struct()) {
            _ if map_type == MapType::Atomic => Shape::Leaf,
            (_, Some(of)) => Shape::Struct(of),
            (Type::Map(_), None) => ty.item().map_or(Shape::Leaf, Shape::Map),
            _ => Shape::Leaf,
        }
    }

    fn of_item(ty: Type) -> Shape<'static> {
        Self::of_type(ty, ty.as_struct().map(|s| s.map_type).unwrap_or_default())
    }

    fn of_field(field: &'static Field) -> Shape<'static> {
        match (field.ty, field.list_type()) {
            (Type::List(_), Some(ListType::Set)) => Shape::Set,
            (Type::List(_), Some(ListType::Map)) => Shape::Keyed(field),
            (Type::List(_), _) => Shape::Leaf,
            (ty, _) => Self::of_type(ty, field.map_type()),
        }
    }

    /// How to walk values of this shape; values of another form are taken as a whole.
    pub(super) fn kind(self, values: [Option<&Value>; 2]) -> Kind {
        let all = |is: fn(&Value) -> bool| values.into_iter().flatten().all(is);
        let (objects, lists) = (all(Value::is_object), all(Value::is_array));
        match self {
            Shape::Struct(_) | Shape::Map(_) | Shape::CustomRoot(_) | Shape::Deduced if objects => {
                Kind::Object
            }
            Shape::Set if lists => Kind::Set,
            Shape::Keyed(_) if lists => Kind::Keyed,
            Shape::Custom(schema) => custom_kind(schema, objects, lists),
            _ => Kind::Leaf,
        }
    }

    /// The shape below a field; none where nothing may be.
    pub(super) fn field(self, name: &str) -> Option<FieldShape<'a>> {
        match self {
            Shape::Struct(of) => Some(match of.field(name) {
                Some(field) => FieldShape { shape: Self::of_field(field), named: true },
                None => FieldShape { shape: Shape::Deduced, named: false },
            }),
            Shape::Map(item) => Some(FieldShape { shape: Self::of_item(item), named: false }),
            Shape::CustomRoot(schema) => Some(match name {
                "metadata" => FieldShape { shape: object_meta(), named: true },
                "apiVersion" | "kind" => FieldShape { shape: Shape::Leaf, named: true },
                other => custom_field(schema, other),
            }),
            Shape::Custom(schema) => Some(match name {
                "metadata" if flag(schema, "x-kubernetes-embedded-resource") => {
                    FieldShape { shape: object_meta(), named: true }
                }
                other => custom_field(schema, other),
            }),
            Shape::Deduced => Some(FieldShape { shape: Shape::Deduced, named: false }),
            Shape::Leaf | Shape::Set | Shape::Keyed(_) => None,
        }
    }

    /// The shape of a list's items.
    pub(super) fn item(self) -> Shape<'a> {
        match self {
            Shape::Keyed(field) => field.ty.item().map_or(Shape::Leaf, Self::of_item),
            Shape::Custom(schema) => schema.get("items").map_or(Shape::Leaf, Shape::Custom),
            _ => Shape::Leaf,
        }
    }

    fn keys(self) -> Vec<&'a str> {
        match self {
            Shape::Keyed(field) => field.list_map_keys().to_vec(),
            Shape::Custom(schema) => {
                let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
                keys.into_iter().flatten().filter_map(Value::as_str).collect()
            }
            _ => Vec::new(),
        }
    }

    fn key_default(self, name: &str) -> Option<Value> {
        match self {
            Shape::Keyed(field) => {
                let text = field.ty.item_struct()?.field(name)?.default_json()?;
                serde_json::from_str(text).ok()
            }
            Shape::Custom(schema) => {
                schema.get("items")?.get("properties")?.get(name)?.get("default").cloned()
            }
            _ => None,
        }
    }

    /// The path element of an item of this list.
    pub(super) fn element(self, kind: Kind, item: &Value) -> Result<Element, KeyError> {
        if kind == Kind::Set {
            return match item {
                Value::Object(_) | Value::Array(_) | Value::Null => Err(KeyError::NotAScalar),
                scalar => Ok(Element::Value(Scalar::of(scalar))),
            };
        }
        let fields: &Map<String, Value> = item.as_object().ok_or(KeyError::NotAMap)?;
        let names = self.keys();
        let mut key: Vec<(String, Scalar)> = Vec::with_capacity(names.len());
        for name in &names {
            let value =
                fields.get(*name).filter(|v| !v.is_null()).cloned().or_else(|| self.key_default(name));
            key.extend(value.map(|value| ((*name).to_owned(), Scalar::of(&value))));
        }
        if key.is_empty() {
            return Err(KeyError::KeysMissing(names.into_iter().map(str::to_owned).collect()));
        }
        key.sort();
        Ok(Element::Key(key))
    }
}

fn object_meta() -> Shape<'static> {
    schema::named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").map_or(Shape::Deduced, Shape::Struct)
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn custom_kind(schema: &Value, objects: bool, lists: bool) -> Kind {
    let word = |name: &str| schema.get(name).and_then(Value::as_str).unwrap_or_default();
    let free = flag(schema, "x-kubernetes-preserve-unknown-fields");
    match (word("type"), word("x-kubernetes-list-type"), word("x-kubernetes-map-type")) {
        ("array", "set", _) if lists => Kind::Set,
        ("array", "map", _) if lists => Kind::Keyed,
        ("object", _, map_type) if objects && map_type != "atomic" => Kind::Object,
        ("", _, _) if free && objects => Kind::Object,
        _ => Kind::Leaf,
    }
}

fn custom_field<'a>(schema: &'a Value, name: &str) -> FieldShape<'a> {
    if let Some(field) = schema.get("properties").and_then(|p| p.get(name)) {
        return FieldShape { shape: Shape::Custom(field), named: true };
    }
    let additional = schema.get("additionalProperties").filter(|a| a.is_object());
    FieldShape { shape: additional.map_or(Shape::Deduced, Shape::Custom), named: false }
}
