//! Expressions with what they come to.

use serde_json::json;

use super::ops;
use super::*;

/// What an expression is, as text: `true`, `error: …`.
fn run(text: &str, object: &serde_json::Value) -> String {
    let expr = match parse(text) {
        Ok(expr) => expr,
        Err(error) => return error.to_string(),
    };
    let bindings = vec![("self".to_owned(), Val::json(object, None))];
    match evaluate(&expr, bindings, &Budget::new(100_000)) {
        Ok(value) => ops::show(&value),
        Err(error) => format!("error: {error}"),
    }
}

const VALUES: &[(&str, &str)] = &[
    ("1 + 2 * 3 == 7", "true"),
    ("(1 + 2) * 3", "9"),
    ("-7 / 2", "-3"),
    ("-7 % 2", "-1"),
    ("-9223372036854775808", "-9223372036854775808"),
    ("9223372036854775807 + 1", "error: integer overflow"),
    ("1 / 0", "error: division by zero"),
    ("1u + 2u", "3"),
    ("1 == 1.0 && 1u == 1", "true"),
    ("0x10 + 1", "17"),
    ("1e3 > 999", "true"),
    ("'a' + \"b\\n\".trim()", "ab"),
    ("r'\\d' == '\\\\d'", "true"),
    ("self.n > 2 ? 'big' : 'small'", "big"),
    ("self.missing", "error: no such key: missing"),
    ("has(self.n) && !has(self.missing)", "true"),
    ("self.missing == 1 || true", "true"),
    ("self.missing == 1 && false", "false"),
    ("self.none == null", "true"),
    ("self.l.all(x, x > 0)", "true"),
    ("self.l.exists(x, x == 2)", "true"),
    ("self.l.exists_one(x, x > 1)", "false"),
    ("self.l.map(x, x * 2) == [2, 4, 6]", "true"),
    ("self.l.map(x, x > 1, x * 2) == [4, 6]", "true"),
    ("self.l.filter(x, x != 2).size()", "2"),
    ("self.l.all(i, v, i + 1 == v)", "true"),
    ("self.m.all(k, self.m[k] > 0)", "true"),
    ("self.m.exists(k, v, k == 'b-c' && v == 2)", "true"),
    ("self.m.transformMap(k, v, v * 2)['a']", "2"),
    ("2 in self.l && 'a' in self.m && !('z' in self.m)", "true"),
    ("self.o.map(x, x.k).join(',')", "x,y"),
    ("self.l.sum() + self.l.max() - self.l.min()", "8"),
    ("self.names.isSorted()", "false"),
    ("self.l.indexOf(3)", "2"),
    ("size(self.s)", "5"),
    ("self.s.startsWith('hé') && self.s.endsWith('lo') && self.s.contains('l')", "true"),
    ("self.s.charAt(1)", "é"),
    ("self.s.substring(1, 3)", "él"),
    ("self.s.indexOf('l')", "2"),
    ("self.s.lastIndexOf('l')", "3"),
    ("self.s.replace('l', 'L', 1)", "héLlo"),
    ("'a,b,c'.split(',').size()", "3"),
    ("'a,b,c'.split(',', 2)[1]", "b,c"),
    ("'Ab'.lowerAscii() + 'Ab'.upperAscii()", "abAB"),
    ("self.s.matches('^h.*o$')", "true"),
    ("'abc123'.find('[0-9]+')", "123"),
    ("'%s is %d, %.1f'.format(['x', 3, 1.25])", "x is 3, 1.2"),
    ("quantity(self.cpu).isLessThan(quantity('1'))", "true"),
    ("quantity('1Gi').compareTo(quantity('1024Mi'))", "0"),
    ("quantity('1').add(quantity('500m')).asApproximateFloat()", "1.5"),
    ("isQuantity('x')", "false"),
    ("duration('90s') > duration('1m')", "true"),
    ("timestamp('2024-01-01T00:00:00Z').getFullYear()", "2024"),
    ("timestamp('2024-01-02T00:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('24h')", "true"),
    ("url('https://u@h.example:8080/p?a=b').getHostname()", "h.example"),
    ("url('https://h:8080/p?a=b').getPort() + url('https://h/p?a=b').getQuery()['a'][0]", "8080b"),
    ("isURL('no url')", "false"),
    ("ip('127.0.0.1').isLoopback() && ip('::1').family() == 6", "true"),
    ("cidr('10.0.0.0/8').containsIP('10.1.2.3')", "true"),
    ("cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')", "true"),
    ("isCIDR('10.0.0.0/33')", "false"),
    ("sets.contains([1, 2, 3], [2]) && sets.equivalent([1, 2], [2, 1, 1])", "true"),
    ("self.?missing.orValue(5)", "5"),
    ("self.?n.optMap(x, x + 1).orValue(0)", "4"),
    ("self[?'n'].hasValue() && !self.?a.?b.hasValue()", "true"),
    ("[1, ?self.?n, ?self.?missing].size()", "2"),
    ("{'a': 1, 'b': 2}.size()", "2"),
    ("{'a': 1, 'a': 2}", "error: repeated key: a"),
    ("int('12') + int(1.9)", "13"),
    ("string(12) + string(true)", "12true"),
    ("type(1) == int && type('a') == string", "true"),
    ("b'abc' == bytes('abc')", "true"),
    ("dyn(1) == dyn('a')", "false"),
    ("'a' + 1", "error: no such overload: _+_(string, int)"),
    ("nobody", "error: undeclared reference to 'nobody'"),
    ("// a comment\n1", "1"),
];

#[test]
fn values() {
    let object = json!({
        "n": 3, "f": 1.5, "s": "héllo", "t": true, "l": [1, 2, 3], "names": ["b", "a"], "none": null,
        "m": {"a": 1, "b-c": 2}, "o": [{"k": "x", "v": 1}, {"k": "y", "v": 2}], "cpu": "100m",
    });
    for (text, expected) in VALUES {
        assert_eq!(run(text, &object), *expected, "{text}");
    }
}

#[test]
fn what_is_no_expression() {
    for text in
        ["", "1 +", "(1", "a.", "[1, 2", "'open", "if", "a.all(1, true)", "has(a)", "1 2", "\"\\q\"", "@"]
    {
        assert!(parse(text).is_err(), "{text}");
    }
    let deep = format!("{}1{}", "(".repeat(500), ")".repeat(500));
    assert!(parse(&deep).is_err());
    assert!(parse(&format!("1{}", "+1".repeat(5000))).is_err());
    assert!(parse(&"!".repeat(5000)).is_err());
}

#[test]
fn the_budget_ends_what_would_take_for_ever() {
    let list: Vec<u32> = (0..10_000).collect();
    let object = json!({"l": list});
    let slow = "self.l.all(a, self.l.all(b, self.l.all(c, a + b + c >= 0)))";
    assert_eq!(run(slow, &object), "error: cost budget exceeded");
    let doubling = format!("['{}'].map(a, a{})", "x".repeat(1000), ".replace('x', 'xxxxxxxxxx')".repeat(8));
    assert_eq!(run(&doubling, &object), "error: cost budget exceeded");
}

#[test]
fn names_that_nobody_declares() {
    let table = [
        ("self.a > size(self.b)", None),
        ("self.l.all(x, x > 0)", None),
        ("other > 1", Some("undeclared reference to 'other' (in container '')")),
        ("nofunction(self)", Some("undeclared reference to 'nofunction' (in container '')")),
        ("self.nomethod()", Some("undeclared reference to 'nomethod' (in container '')")),
    ];
    for (text, expected) in table {
        let found = undeclared(&parse(text).unwrap(), &[("self".to_owned(), None)]);
        assert_eq!(found.as_deref(), expected, "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn never_panics(text in "[a-z0-9 .()\\[\\]{}<>=!&|?:+*/%'\"-]{0,60}") {
        if let Ok(expr) = parse(&text) {
            let object = json!({"a": 1});
            let _ = evaluate(&expr, vec![("a".to_owned(), Val::json(&object, None))], &Budget::new(1000));
        }
    }
}
