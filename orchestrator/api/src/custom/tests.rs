//! Definitions in, verdicts on objects out.

use serde_json::{Value, json};

use super::*;
use crate::kind;

fn compile(schema: Value) -> Schema {
    Schema::compile(&schema).unwrap()
}

/// One field of a spec with a schema.
fn field(schema: Value) -> Schema {
    compile(
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"x": schema}}}}),
    )
}

fn texts(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// A schema of a field, a value, what is said against it.
type Case = (Value, Value, Vec<&'static str>);

fn judge(cases: impl IntoIterator<Item = Case>) {
    for (schema, value, expected) in cases {
        let object = json!({"spec": {"x": value}});
        assert_eq!(texts(&validate(&field(schema.clone()), &object, None)), expected, "{schema} {value}");
    }
}

#[test]
fn values_and_their_messages() {
    judge([
        (
            json!({"type": "integer"}),
            json!("a"),
            vec!["spec.x: Invalid value: \"string\": spec.x in body must be of type integer: \"string\""],
        ),
        (json!({"type": "integer"}), json!(1.0), vec![]),
        (json!({"type": "integer", "nullable": true}), json!(null), vec![]),
        (
            json!({"type": "integer", "maximum": 5}),
            json!(6),
            vec!["spec.x: Invalid value: 6: spec.x in body should be less than or equal to 5"],
        ),
        (
            json!({"type": "number", "minimum": 0, "exclusiveMinimum": true}),
            json!(0),
            vec!["spec.x: Invalid value: 0: spec.x in body should be greater than 0"],
        ),
        (
            json!({"type": "integer", "multipleOf": 3}),
            json!(7),
            vec!["spec.x: Invalid value: 7: spec.x in body should be a multiple of 3"],
        ),
        (
            json!({"type": "string", "enum": ["a", "b"]}),
            json!("c"),
            vec!["spec.x: Unsupported value: \"c\": supported values: \"a\", \"b\""],
        ),
        (
            json!({"type": "string", "pattern": "^a+$"}),
            json!("b"),
            vec!["spec.x: Invalid value: \"b\": spec.x in body should match '^a+$'"],
        ),
        (
            json!({"type": "string", "maxLength": 2}),
            json!("abc"),
            vec!["spec.x: Too long: may not be more than 2 bytes"],
        ),
        (
            json!({"type": "string", "minLength": 1}),
            json!(""),
            vec!["spec.x: Invalid value: \"\": spec.x in body should be at least 1 chars long"],
        ),
        (
            json!({"type": "string", "format": "date-time"}),
            json!("soon"),
            vec!["spec.x: Invalid value: \"soon\": spec.x in body must be of type date-time: \"soon\""],
        ),
        (
            json!({"type": "array", "maxItems": 1, "items": {"type": "string"}}),
            json!(["a", 2]),
            vec![
                "spec.x[1]: Invalid value: \"integer\": spec.x[1] in body must be of type string: \"integer\"",
                "spec.x: Too many: 2: must have at most 1 item",
            ],
        ),
        (
            json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}),
            json!({}),
            vec!["spec.x.a: Required value"],
        ),
        (json!({"x-kubernetes-int-or-string": true}), json!("50%"), vec![]),
    ]);
}

#[test]
fn values_in_several_forms() {
    judge([
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            vec![
                "spec.x: Invalid value: \"boolean\": spec.x in body must be of type integer,string: \"boolean\"",
            ],
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "boolean"}}),
            json!({"k": 1}),
            vec![
                "spec.x.k: Invalid value: \"integer\": spec.x.k in body must be of type boolean: \"integer\"",
            ],
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            json!({"a": "1", "b": "2"}),
            vec![
                "<nil>: Invalid value: \"\": \"spec.x\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
            ],
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "anyOf": [{"required": ["a"]}]}),
            json!({}),
            vec![
                "<nil>: Invalid value: \"\": \"spec.x\" must validate at least one schema (anyOf)",
                "spec.x.a: Required value",
            ],
        ),
        (
            json!({"type": "string", "not": {"enum": ["bad"]}, "allOf": [{"minLength": 2}]}),
            json!("bad"),
            vec!["<nil>: Invalid value: \"\": \"spec.x\" must not validate the schema (not)"],
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}}),
            json!([1, 2, 1.0]),
            vec!["spec.x[2]: Duplicate value: 1.0"],
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"],
                "items": {"type": "object", "required": ["n"], "properties": {"n": {"type": "string"}}}}),
            json!([{"n": "a"}, {"n": "a"}]),
            vec!["spec.x[1]: Duplicate value: {\"n\":\"a\"}"],
        ),
    ]);
}

#[test]
fn what_did_not_change_is_not_judged() {
    let schema = field(
        json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"],
        "items": {"type": "object", "properties": {"n": {"type": "string"}, "v": {"type": "integer", "maximum": 5}}}}),
    );
    let old = json!({"spec": {"x": [{"n": "a", "v": 9}, {"n": "b", "v": 1}]}});
    let moved = json!({"spec": {"x": [{"n": "b", "v": 2}, {"n": "a", "v": 9}]}});
    assert_eq!(texts(&validate(&schema, &moved, Some(&old))), Vec::<String>::new());
    let worse = json!({"spec": {"x": [{"n": "a", "v": 8}]}});
    assert_eq!(validate(&schema, &worse, Some(&old)).len(), 1);
}

#[test]
fn pruning_and_defaults() {
    let schema = compile(json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer", "default": 3},
        "maybe": {"type": "string", "nullable": true},
        "plain": {"type": "string"},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"known": {"type": "object", "properties": {"a": {"type": "string"}}}}},
        "map": {"type": "object", "additionalProperties": {"type": "object",
            "properties": {"on": {"type": "boolean", "default": true}}}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "integer", "default": 80}}}},
        "template": {"type": "object", "x-kubernetes-embedded-resource": true,
            "x-kubernetes-preserve-unknown-fields": true},
    }}}}));
    let mut object = json!({
        "apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n"}, "extra": 1,
        "spec": {
            "size": null, "maybe": null, "plain": null, "typo": {"deep": 1},
            "free": {"anything": [1], "known": {"a": "x", "b": 1}},
            "map": {"k": {"off": 1}}, "list": [{}, {"p": 1, "q": 2}],
            "template": {"kind": "Pod", "spec": {"x": 1}},
        },
    });
    let dropped = prune(&schema, &mut object);
    assert_eq!(dropped, ["extra", "spec.free.known.b", "spec.list[1].q", "spec.map.k.off", "spec.typo"]);
    default(&schema, &mut object);
    let expected = json!({
        "size": 3, "maybe": null, "free": {"anything": [1], "known": {"a": "x"}}, "map": {"k": {"on": true}},
        "list": [{"p": 80}, {"p": 1}], "template": {"kind": "Pod", "spec": {"x": 1}},
    });
    assert_eq!(object["spec"], expected);
    let before = object.clone();
    default(&schema, &mut object);
    assert_eq!(object, before);
}

fn with_rules(rules: Value, properties: Value) -> Schema {
    compile(json!({"type": "object", "properties": {"spec": {
        "type": "object", "x-kubernetes-validations": rules, "properties": properties,
    }}}))
}

#[test]
fn rules() {
    let schema = with_rules(
        json!([
            {"rule": "self.min <= self.max", "message": "min is above max", "fieldPath": ".min"},
            {"rule": "self.max < 100", "messageExpression": "'max is ' + string(self.max)"},
            {"rule": "!has(self.name) || self.name == oldSelf.name", "reason": "FieldValueForbidden", "message": "name is fixed"},
        ]),
        json!({"min": {"type": "integer"}, "max": {"type": "integer"}, "name": {"type": "string"},
            "hosts": {"type": "array", "items": {"type": "string",
                "x-kubernetes-validations": [{"rule": "self.startsWith('a')"}]}}}),
    );
    let object = |spec: Value| json!({"spec": spec});
    let check =
        |new: Value, old: Option<Value>| texts(&validate(&schema, &object(new), old.map(object).as_ref()));
    assert_eq!(check(json!({"min": 1, "max": 2, "name": "a"}), None), Vec::<String>::new());
    assert_eq!(
        check(json!({"min": 3, "max": 2}), None),
        ["spec.min: Invalid value: \"object\": min is above max"]
    );
    assert_eq!(check(json!({"min": 3, "max": 200}), None), ["spec: Invalid value: \"object\": max is 200"]);
    assert_eq!(
        check(json!({"min": 1, "max": 2, "hosts": ["a", "b"]}), None),
        ["spec.hosts[1]: Invalid value: \"string\": failed rule: self.startsWith('a')"]
    );
    let old = json!({"min": 1, "max": 2, "name": "a"});
    assert_eq!(
        check(json!({"min": 1, "max": 2, "name": "b"}), Some(old.clone())),
        ["spec: Forbidden: name is fixed"]
    );
    let broken = json!({"min": 5, "max": 2, "name": "a"});
    assert_eq!(check(broken.clone(), Some(broken)), Vec::<String>::new(), "nothing changed");
    assert_eq!(
        check(json!({"min": 1}), None)[0],
        "spec.min: Invalid value: \"object\": rule evaluation error: no such key: max: self.min <= self.max"
    );
}

#[test]
fn a_wrong_value_keeps_rules_from_running() {
    let schema = with_rules(json!([{"rule": "self.a > 1"}]), json!({"a": {"type": "integer"}}));
    let errors = texts(&validate(&schema, &json!({"spec": {"a": "x"}}), None));
    assert_eq!(errors.len(), 2);
    assert!(errors[1].contains("some validation rules were not checked"), "{errors:?}");
}

#[test]
fn rules_cannot_run_for_ever() {
    let schema = with_rules(
        json!([{"rule": "self.l.all(a, self.l.all(b, self.l.all(c, a + b + c >= 0)))"}, {"rule": "false"}]),
        json!({"l": {"type": "array", "items": {"type": "integer"}}}),
    );
    let list: Vec<u32> = (0..2000).collect();
    let errors = texts(&validate(&schema, &json!({"spec": {"l": list}}), None));
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("call cost exceeds limit"), "{errors:?}");
}

#[test]
fn typed_values_in_rules() {
    let schema = with_rules(
        json!([
            {"rule": "self.until > timestamp('2024-01-01T00:00:00Z')"},
            {"rule": "self.every >= duration('1m')"},
            {"rule": "self.ratio * 2.0 == 2.0"},
            {"rule": "self.a__dash__b == 'x' && self.__namespace__ == 'n'"},
            {"rule": "type(self.port) == int ? self.port > 0 : self.port.endsWith('%')"},
            {"rule": "self.set == ['b', 'a']"},
        ]),
        json!({
            "until": {"type": "string", "format": "date-time"}, "every": {"type": "string", "format": "duration"},
            "ratio": {"type": "number"}, "a-b": {"type": "string"}, "namespace": {"type": "string"},
            "port": {"x-kubernetes-int-or-string": true},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        }),
    );
    let spec = json!({"until": "2025-01-01T00:00:00Z", "every": "90s", "ratio": 1, "a-b": "x", "namespace": "n",
        "port": "5%", "set": ["a", "b"]});
    assert_eq!(texts(&validate(&schema, &json!({"spec": spec}), None)), Vec::<String>::new());
}

fn definition(schema: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "conversion": {"strategy": "None"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    })
}

fn refused(definition: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    validate_definition(definition, &mut errors);
    texts(&errors)
}

/// What is refused in a schema of the spec; places are told from the spec on.
fn refused_in_spec(spec: Value) -> Vec<String> {
    let place = "spec.versions[0].schema.openAPIV3Schema.properties[spec]";
    let schema = json!({"type": "object", "properties": {"spec": spec}});
    refused(&definition(schema)).into_iter().map(|text| text.replace(place, "~")).collect()
}

fn refuse(cases: impl IntoIterator<Item = (Value, Vec<&'static str>)>) {
    for (schema, expected) in cases {
        assert_eq!(refused_in_spec(schema.clone()), expected, "{schema}");
    }
    let found = refused_in_spec(json!({"type": "string", "pattern": "("}));
    assert!(found[0].contains("must be a valid regular expression"), "{found:?}");
}

#[test]
fn schemas_are_structural() {
    refuse([
        (json!({"type": "object"}), vec![]),
        (
            json!({"properties": {"a": {"type": "string"}}}),
            vec!["~.type: Required value: must not be empty for specified object fields"],
        ),
        (json!({"type": "array"}), vec!["~.items: Required value: must be specified"]),
        (
            json!({"type": "strange"}),
            vec![
                "~.type: Unsupported value: \"strange\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
            ],
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
            vec![
                "~.additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
            ],
        ),
        (
            json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}}),
            vec![
                "~.uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ],
        ),
        (
            json!({"type": "object", "oneOf": [{"properties": {"a": {"type": "string"}}}]}),
            vec![
                "~.oneOf[0].properties[a].type: Forbidden: must be empty to be structural",
                "~.properties[a]: Required value: because it is defined in ~.oneOf[0].properties[a]",
            ],
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}),
            vec![
                "~.x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
            ],
        ),
        (
            json!({"type": "integer", "default": "a"}),
            vec![
                "~.default: Invalid value: \"string\": ~.default in body must be of type integer: \"string\"",
            ],
        ),
        (
            json!({"type": "object", "default": {"b": 1}, "properties": {"a": {"type": "string"}}}),
            vec!["~.default: Invalid value: {\"b\":1}: must not have unknown fields"],
        ),
    ]);
}

#[test]
fn extensions_are_used_as_they_are_meant() {
    refuse([
        (
            json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
            vec![],
        ),
        (
            json!({"type": "string", "x-kubernetes-embedded-resource": true}),
            vec![
                "~.properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
                "~.type: Invalid value: \"string\": must be object if x-kubernetes-embedded-resource is true",
            ],
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.b"}], "properties": {"a": {"type": "string"}}}),
            vec![
                "~.x-kubernetes-validations[0].rule: Invalid value: \"self.b\": compilation failed: undefined field 'b'",
            ],
        ),
        (
            json!({"type": "array", "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}),
            vec![
                "~.items.x-kubernetes-validations[0].rule: Invalid value: \"self == oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within ~",
            ],
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}},
            "x-kubernetes-validations": [{"rule": "1 +", "fieldPath": ".c", "reason": "Because"}]}),
            vec![
                "~.x-kubernetes-validations[0].fieldPath: Invalid value: \".c\": fieldPath must be a valid path: does not refer to a valid field",
                "~.x-kubernetes-validations[0].reason: Unsupported value: \"Because\": supported values: \"FieldValueDuplicate\", \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\"",
                "~.x-kubernetes-validations[0].rule: Invalid value: \"1 +\": compilation failed: syntax error at 3: unexpected end of the expression",
            ],
        ),
    ]);
}

#[test]
fn definitions() {
    let good = || definition(json!({"type": "object", "properties": {"spec": {"type": "object"}}}));
    assert_eq!(refused(&good()), Vec::<String>::new());
    let table: [(&str, Value, &str); 12] = [
        ("/metadata/name", json!("a.b"), "metadata.name: Invalid value: \"a.b\": must be spec.names.plural"),
        ("/spec/group", json!("nodots"), "spec.group: Invalid value: \"nodots\": should be a domain"),
        ("/spec/scope", json!("Both"), "spec.scope: Unsupported value: \"Both\""),
        ("/spec/names/plural", json!("W"), "spec.names.plural: Invalid value: \"W\""),
        (
            "/spec/names/listKind",
            json!("Widget"),
            "spec.names.listKind: Invalid value: \"Widget\": kind and listKind may",
        ),
        ("/spec/versions/0/name", json!("V1"), "spec.versions[0].name: Invalid value: \"V1\""),
        ("/spec/versions/0/storage", json!(false), "must have exactly one version marked as storage version"),
        ("/spec/versions/0/schema", json!({}), "spec.versions[0].schema.openAPIV3Schema: Required value"),
        (
            "/spec/versions/0/additionalPrinterColumns",
            json!([{"name": "A", "type": "what", "jsonPath": "x"}]),
            "spec.versions[0].additionalPrinterColumns[0].type: Invalid value: \"what\": must be one of",
        ),
        (
            "/spec/versions/0/subresources",
            json!({"scale": {"specReplicasPath": ".status.x", "statusReplicasPath": ".status.x"}}),
            "spec.versions[0].subresources.scale.specReplicasPath: Invalid value: \".status.x\": should be a json path under .spec",
        ),
        (
            "/spec/versions/0/selectableFields",
            json!([{"jsonPath": ".spec.no"}]),
            "spec.versions[0].selectableFields[0].jsonPath: Invalid value: \".spec.no\": is an invalid path",
        ),
        (
            "/spec/conversion",
            json!({"strategy": "Webhook"}),
            "spec.conversion.webhookClientConfig: Required value",
        ),
    ];
    for (place, value, expected) in table {
        let mut bad = good();
        let (parent, name) = place.rsplit_once('/').unwrap();
        bad.pointer_mut(parent).unwrap()[name] = value;
        let found = refused(&bad);
        assert!(found.iter().any(|text| text.contains(expected)), "{place}: {found:?}");
    }
    let mut community = good();
    community["spec"]["group"] = "gateway.networking.k8s.io".into();
    community["metadata"]["name"] = "widgets.gateway.networking.k8s.io".into();
    assert!(refused(&community)[0].contains("protected groups must have approval annotation"));
    community["metadata"]["annotations"] =
        json!({"api-approved.kubernetes.io": "https://github.com/x/pull/1"});
    assert_eq!(refused(&community), Vec::<String>::new());
}

#[test]
fn a_definition_is_read() {
    let mut object = definition(json!({"type": "object", "properties": {"spec": {"type": "object"}}}));
    object["spec"]["versions"][0]["subresources"] = json!({"status": {}, "scale": {
        "specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}});
    renew(&mut object, &[], jiff::Timestamp::UNIX_EPOCH);
    let read = Definition::read(&object).unwrap();
    assert_eq!(read.served(), ["example.com/v1"]);
    let row = kind::intern(&read.row(read.storage().unwrap())).unwrap();
    assert_eq!((row.kind, row.plural, row.status), ("Widget", "widgets", true));
    let errors = validate_scale(read.versions[0].scale.as_ref().unwrap(), &json!({"spec": {"n": -1}}));
    assert_eq!(texts(&errors), ["spec.n: Invalid value: -1: should be a non-negative integer"]);
}
