//! Objects made up from the schema table, for property tests.

use catamaran_api::schema::{Struct, Type};
use serde_json::{Map, Value, json};

/// A small generator of numbers (splitmix64), so that one seed makes one object.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// An object of that struct in normal form; a third of the fields is there.
pub(crate) fn object(of: &'static Struct, dice: &mut Dice, depth: usize) -> Value {
    let mut fields = Map::new();
    for field in of.fields.iter().filter(|f| f.tags[0] != 0) {
        if dice.roll(3) != 0 || depth == 0 && !field.ty.is_scalar() {
            continue;
        }
        let value = value(field.ty, dice, depth);
        if !field.leaves_out(&value) {
            fields.insert(field.name.to_owned(), value);
        }
    }
    Value::Object(fields)
}

fn value(ty: Type, dice: &mut Dice, depth: usize) -> Value {
    let pick = |dice: &mut Dice, values: &[Value]| values[dice.roll(values.len() as u64) as usize].clone();
    match ty {
        Type::String => pick(dice, &["".into(), "a".into(), "täxt \"\n".into(), "x/y:z".into()]),
        Type::Bytes => pick(dice, &["".into(), "aGVsbG8=".into(), "AAEC/w==".into()]),
        Type::Bool => (dice.roll(2) == 0).into(),
        Type::Int32 => pick(dice, &[0.into(), 1.into(), (-1).into(), i32::MAX.into(), i32::MIN.into()]),
        Type::Int64 => pick(dice, &[0.into(), 7.into(), (-7).into(), i64::MAX.into(), i64::MIN.into()]),
        Type::Double => pick(dice, &[json!(0.5), json!(-3.25), json!(1e300)]),
        Type::Time => pick(
            dice,
            &["2024-02-29T23:59:59Z".into(), "1969-12-31T23:59:58Z".into(), "1970-01-01T00:00:01Z".into()],
        ),
        Type::MicroTime => {
            pick(dice, &["2024-02-29T23:59:59.000001Z".into(), "1969-12-31T23:59:58.500000Z".into()])
        }
        Type::Duration => pick(dice, &["30s".into(), "1h2m3.5s".into(), "0s".into()]),
        Type::Quantity => pick(dice, &["0".into(), "500m".into(), "1Gi".into(), "12e6".into(), "-1".into()]),
        Type::IntOrString => pick(dice, &["25%".into(), "http".into(), 0.into(), 80.into()]),
        Type::Raw | Type::Json => json!({"any": [1, {"deep": null}], "text": "x"}),
        Type::Fields => json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}}),
        Type::SchemaOrBool => (dice.roll(2) == 0).into(),
        Type::SchemaOrArray => json!({"type": "string"}),
        Type::SchemaOrStrings => json!(["a", "b"]),
        Type::Struct(_) => object(ty.as_struct().expect("a struct"), dice, depth - 1),
        Type::List(_) => {
            let item = ty.item().expect("a list or map has elements");
            // A list of type map or set has no equals; here the order keeps them apart. Empty lists have no place in protobuf.
            (0..=dice.roll(2)).map(|_| value(item, dice, depth.saturating_sub(1).max(1))).collect()
        }
        Type::Map(_) => {
            let item = ty.item().expect("a list or map has elements");
            let entries = (0..=dice.roll(2))
                .map(|i| (format!("key{i}"), value(item, dice, depth.saturating_sub(1).max(1))));
            Value::Object(entries.collect())
        }
    }
}
