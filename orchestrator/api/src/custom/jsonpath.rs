//! The JSONPath that definitions use for columns, selectable fields and scale (`client-go/util/jsonpath`):
//! fields, indexes, slices, wildcards and simple filters. Missing things are no error.

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    Filter(Vec<String>, Compare, Value),
    Exists(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

const COMPARES: [(&str, Compare); 6] = [
    ("==", Compare::Equal),
    ("!=", Compare::NotEqual),
    ("<=", Compare::LessOrEqual),
    (">=", Compare::GreaterOrEqual),
    ("<", Compare::Less),
    (">", Compare::Greater),
];

/// The value at a plain path with dots, such as `.spec.replicas`.
pub(super) fn dotted<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.trim_start_matches('.').split('.').try_fold(object, |value, part| value.get(part))
}

impl JsonPath {
    /// Reads a path such as `.status.conditions[?(@.type=="Ready")].status`.
    ///
    /// # Errors
    /// Says what cannot be read.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut steps = Vec::new();
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        while !rest.is_empty() {
            rest = match rest.as_bytes()[0] {
                b'.' => {
                    let (name, after) = field(&rest[1..]);
                    if name.is_empty() && !after.starts_with('[') && !after.is_empty() {
                        return Err(format!("unrecognized character in {after:?}"));
                    }
                    match name.as_str() {
                        "" => {}
                        "*" => steps.push(Step::All),
                        _ => steps.push(Step::Field(name)),
                    }
                    after
                }
                b'[' => {
                    let end = closing(rest).ok_or_else(|| "unterminated array".to_owned())?;
                    steps.push(bracket(rest[1..end].trim())?);
                    &rest[end + 1..]
                }
                _ => return Err(format!("unrecognized character in {rest:?}")),
            };
        }
        Ok(JsonPath(steps))
    }

    /// The first value that the path finds.
    pub(super) fn first<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        let mut found = vec![object];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.find(value)).collect();
        }
        found.into_iter().next()
    }

    /// The fields, where the path has nothing else.
    pub(super) fn fields(&self) -> Option<Vec<&str>> {
        fn name(step: &Step) -> Option<&str> {
            match step {
                Step::Field(name) => Some(name),
                _ => None,
            }
        }
        self.0.iter().map(name).collect()
    }
}

/// A field name, in which a backslash takes the next character as it is, and what follows.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (name, &text[at..]),
            c => name.push(c),
        }
    }
    (name, "")
}

/// Where the bracket that the text begins with is closed; brackets in quotes do not count.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Result<Step, String> {
    if let Some(condition) = text.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) {
        return filter(condition.trim());
    }
    if let Some(name) = quoted(text) {
        return Ok(Step::Field(name));
    }
    let number = |text: &str| match text.trim() {
        "" => Ok(None),
        text => text.parse::<i64>().map(Some).map_err(|_| format!("invalid array index {text}")),
    };
    match text {
        "*" => Ok(Step::All),
        _ => match text.split_once(':') {
            Some((from, to)) => Ok(Step::Slice(number(from)?, number(to)?)),
            None => match number(text)? {
                Some(index) => Ok(Step::Index(index)),
                None => Err("invalid array index".to_owned()),
            },
        },
    }
}

fn quoted(text: &str) -> Option<String> {
    let inside = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    let name = inside('\'').or_else(|| inside('"'))?;
    Some(name.replace("\\.", "."))
}

fn filter(text: &str) -> Result<Step, String> {
    let path = |text: &str| -> Result<Vec<String>, String> {
        let text = text.trim();
        let path = text.strip_prefix('@').ok_or_else(|| format!("a filter begins with @: {text:?}"))?;
        let steps = JsonPath::parse(path)?;
        let names = steps.fields().ok_or_else(|| format!("only fields can be compared: {text:?}"))?;
        Ok(names.into_iter().map(str::to_owned).collect())
    };
    let found = COMPARES.iter().filter_map(|(symbol, compare)| Some((text.find(symbol)?, *symbol, *compare)));
    // The first operator; of two at the same place the longer one, which stands before the other in the list.
    let Some((at, symbol, compare)) = found.min_by_key(|(at, ..)| *at) else {
        return Ok(Step::Exists(path(text)?));
    };
    let literal = text[at + symbol.len()..].trim();
    let value = match quoted(literal) {
        Some(text) => Value::String(text),
        None => serde_json::from_str(literal).map_err(|_| format!("cannot compare with {literal:?}"))?,
    };
    Ok(Step::Filter(path(&text[..at])?, compare, value))
}

impl Step {
    fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
        let at = |index: i64| {
            let index =
                if index < 0 { index + i64::try_from(items.len()).unwrap_or(i64::MAX) } else { index };
            usize::try_from(index).unwrap_or(usize::MAX)
        };
        match self {
            Step::Field(name) => value.get(name).into_iter().collect(),
            Step::Index(index) => items.get(at(*index)).into_iter().collect(),
            Step::Slice(from, to) => {
                let from = from.map_or(0, at).min(items.len());
                let to = to.map_or(items.len(), at).clamp(from, items.len());
                items[from..to].iter().collect()
            }
            Step::All => match value {
                Value::Object(fields) => fields.values().collect(),
                _ => items.iter().collect(),
            },
            Step::Filter(path, compare, wanted) => {
                let fits = |item: &&Value| walk(item, path).is_some_and(|found| compare.holds(found, wanted));
                items.iter().filter(fits).collect()
            }
            Step::Exists(path) => items.iter().filter(|item| walk(item, path).is_some()).collect(),
        }
    }
}

fn walk<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, name| value.get(name))
}

impl Compare {
    fn holds(self, one: &Value, other: &Value) -> bool {
        let order = match (one, other) {
            (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
            (Value::Bool(one), Value::Bool(other)) => Some(one.cmp(other)),
            _ => one.as_f64().zip(other.as_f64()).and_then(|(one, other)| one.partial_cmp(&other)),
        };
        match (self, order) {
            (Compare::NotEqual, order) => order.is_none_or(|order| order.is_ne()),
            (_, None) => false,
            (Compare::Equal, Some(order)) => order.is_eq(),
            (Compare::Less, Some(order)) => order.is_lt(),
            (Compare::LessOrEqual, Some(order)) => order.is_le(),
            (Compare::Greater, Some(order)) => order.is_gt(),
            (Compare::GreaterOrEqual, Some(order)) => order.is_ge(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_found() {
        let object = json!({
            "metadata": {"annotations": {"a.b/c": "x"}},
            "spec": {"list": [{"n": 1, "name": "one"}, {"n": 2, "name": "two"}], "m": {"k": true}},
            "status": {"conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}]},
        });
        let table = [
            (".status.conditions[?(@.type==\"Ready\")].status", Some(json!("True"))),
            (".status.conditions[?(@.type == 'A')].status", Some(json!("False"))),
            (".status.conditions[?(@.type=='B')].status", None),
            (".spec.list[1].name", Some(json!("two"))),
            (".spec.list[-1].name", Some(json!("two"))),
            (".spec.list[-1:].name", Some(json!("two"))),
            (".spec.list[*].n", Some(json!(1))),
            (".spec.list[?(@.n>=2)].name", Some(json!("two"))),
            (".spec.list[?(@.n)].name", Some(json!("one"))),
            (".spec['m'].k", Some(json!(true))),
            (r".metadata.annotations.a\.b/c", Some(json!("x"))),
            (r".metadata.annotations['a\.b/c']", Some(json!("x"))),
            (".spec.none.x", None),
        ];
        for (path, expected) in table {
            assert_eq!(JsonPath::parse(path).unwrap().first(&object), expected.as_ref(), "{path}");
        }
        for bad in ["spec", ".spec[", ".spec[x]", "..a", ".a[?(b)]"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
