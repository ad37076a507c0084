//! Reads the text of the table.

use std::collections::HashMap;

use super::{Extra, Field, ItemId, ListType, MapType, PLAIN, Special, Struct, StructId, Table, Tagged, Type};
use crate::kind::GroupVersionKind;

const BROKEN: &str = "the table is generated and checked by tests";

/// Reads the whole table. The text is part of the program and checked by tests, so a broken line is a broken invariant.
pub(super) fn table(text: &'static str) -> Table {
    let lines = || text.lines().filter(|line| !line.starts_with('#'));
    let mut table = Table {
        structs: Vec::new(),
        items: Vec::new(),
        specials: Vec::new(),
        by_name: HashMap::new(),
        by_kind: HashMap::new(),
    };
    for line in lines().filter(|line| !line.starts_with(' ') && !line.ends_with(" special")) {
        let name = line.split(' ').next().expect(BROKEN);
        let id = StructId(u16::try_from(table.by_name.len()).expect(BROKEN));
        table.by_name.insert(name, id);
    }
    let mut heads: Vec<(&'static str, usize)> = Vec::new();
    let mut fields: Vec<Field> = Vec::new();
    for (number, line) in lines().enumerate() {
        if let Some(line) = line.strip_prefix(' ') {
            let owner = heads.last().expect(BROKEN).0;
            let field = field(line, package(owner), &mut table);
            fields.push(field);
            continue;
        }
        finish(&mut table, heads.last(), &mut fields);
        if let Some(name) = line.strip_suffix(" special") {
            table.specials.push(Special { name, line: u16::try_from(number).expect(BROKEN) });
        } else {
            heads.push((line, number));
        }
    }
    finish(&mut table, heads.last(), &mut fields);
    table
}

/// Closes the struct whose fields were read, unless it is closed already.
fn finish(table: &mut Table, head: Option<&(&'static str, usize)>, fields: &mut Vec<Field>) {
    let Some(&(line, number)) = head else { return };
    let mut words = line.split(' ');
    let name = words.next().expect(BROKEN);
    let id = table.by_name[name];
    if usize::from(id.0) < table.structs.len() {
        return;
    }
    let fields: &'static [Field] = Vec::leak(std::mem::take(fields));
    let mut read = Struct {
        name,
        fields,
        by_tag: by_tag(fields),
        map_type: MapType::Granular,
        gvk: None,
        id,
        line: u16::try_from(number).expect(BROKEN),
    };
    for word in words {
        match word.split_once('=').expect(BROKEN) {
            ("map", _) => read.map_type = MapType::Atomic,
            ("gvk", gvk) => {
                let mut parts = gvk.split('/');
                let mut next = || parts.next().expect(BROKEN);
                let gvk = GroupVersionKind { group: next(), version: next(), kind: next() };
                table.by_kind.insert((gvk.group, gvk.version, gvk.kind), id);
                read.gvk = Some(gvk);
            }
            other => unreachable!("{BROKEN}: {other:?}"),
        }
    }
    table.structs.push(read);
}

fn by_tag(fields: &[Field]) -> Box<[Tagged]> {
    let last = fields.iter().map(|field| usize::from(field.tags[0])).max().unwrap_or_default();
    let mut by_tag = vec![Tagged::Unknown; last + 1];
    for (index, field) in fields.iter().enumerate().filter(|(_, field)| field.tags[0] != 0) {
        let index = u8::try_from(index).expect(BROKEN);
        by_tag[usize::from(field.tags[0])] =
            if field.tags[1] == 0 { Tagged::Field(index) } else { Tagged::Inlined };
    }
    by_tag.into_boxed_slice()
}

fn package(line: &'static str) -> &'static str {
    line.split(' ').next().and_then(|name| name.rsplit_once('.')).expect(BROKEN).0
}

fn field(line: &'static str, package: &str, table: &mut Table) -> Field {
    let mut words = line.split(' ');
    let name = words.next().expect(BROKEN);
    let ty = shape(words.next().expect(BROKEN), package, table);
    let tags = tags(words.next().expect(BROKEN));
    let mut field = Field { name, ty, required: false, always: false, tags, extra: &PLAIN };
    let mut extra = None;
    for word in words {
        match word {
            "!" => field.required = true,
            "always" => field.always = true,
            _ => attribute(word, extra.get_or_insert_with(Extra::default)),
        }
    }
    if let Some(extra) = extra {
        field.extra = Box::leak(Box::new(extra));
    }
    field
}

fn attribute(word: &'static str, extra: &mut Extra) {
    let split = |text: &'static str| text.split(',').collect::<Vec<_>>();
    match word.split_once('=').expect(BROKEN) {
        ("list", "atomic") => extra.list_type = Some(ListType::Atomic),
        ("list", "set") => extra.list_type = Some(ListType::Set),
        ("list", "map") => extra.list_type = Some(ListType::Map),
        ("keys", keys) => extra.list_map_keys = split(keys).leak(),
        ("merge", key) => extra.merge_key = Some(key),
        ("strategy", strategy) => {
            for part in strategy.split(',') {
                match part {
                    "merge" => extra.merge = true,
                    "retainKeys" => extra.retain_keys = true,
                    _ => extra.replace = true,
                }
            }
        }
        ("map", _) => extra.map_type = Some(MapType::Atomic),
        ("default", json) => extra.default = Some(json),
        ("enum", values) => {
            extra.values =
                split(values).iter().map(|value| value.replace('+', " ")).collect::<Vec<_>>().leak();
        }
        other => unreachable!("{BROKEN}: {other:?}"),
    }
}

fn tags(text: &str) -> [u8; 3] {
    let mut tags = [0; 3];
    if text != "-" {
        for (slot, tag) in tags.iter_mut().zip(text.split('.')) {
            *slot = tag.parse().expect(BROKEN);
        }
    }
    tags
}

fn shape(text: &str, package: &str, table: &mut Table) -> Type {
    let item = |rest: &str, table: &mut Table| {
        let inner = shape(rest, package, table);
        let at = table.items.iter().position(|known| *known == inner).unwrap_or_else(|| {
            table.items.push(inner);
            table.items.len() - 1
        });
        ItemId(u16::try_from(at).expect(BROKEN))
    };
    if let Some(rest) = text.strip_prefix("[]") {
        return Type::List(item(rest, table));
    }
    if let Some(rest) = text.strip_prefix("{}") {
        return Type::Map(item(rest, table));
    }
    if let Some(name) = text.strip_prefix('@') {
        let id = if name.contains('.') {
            table.by_name.get(name).copied()
        } else {
            table.by_name.get(format!("{package}.{name}").as_str()).copied()
        };
        return Type::Struct(id.expect(BROKEN));
    }
    match text {
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "bool" => Type::Bool,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "double" => Type::Double,
        "time" => Type::Time,
        "micro" => Type::MicroTime,
        "duration" => Type::Duration,
        "quantity" => Type::Quantity,
        "intstr" => Type::IntOrString,
        "raw" => Type::Raw,
        "fields" => Type::Fields,
        "json" => Type::Json,
        "schema|array" => Type::SchemaOrArray,
        "schema|bool" => Type::SchemaOrBool,
        "schema|strings" => Type::SchemaOrStrings,
        other => unreachable!("{BROKEN}: {other}"),
    }
}
