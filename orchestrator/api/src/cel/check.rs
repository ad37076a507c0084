//! What can be said of an expression before it runs: names that nobody declares, functions that are not there,
//! fields that a schema does not have.

use super::ast::{Expr, Macro};
use super::functions::{FUNCTIONS, LIBRARIES, METHODS};
use super::json::{Typing, unescape};

const TYPES: [&str; 10] =
    ["int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type"];

/// A variable with what is known of it.
type Variable<'t> = (String, Option<&'t dyn Typing>);

/// The first thing in an expression that cannot work with these variables, in Kubernetes' words.
pub fn undeclared<'t>(expr: &Expr, variables: &[Variable<'t>]) -> Option<String> {
    let mut walk = Walk { variables: variables.to_vec(), found: None };
    walk.expr(expr);
    walk.found
}

struct Walk<'t> {
    variables: Vec<Variable<'t>>,
    found: Option<String>,
}

impl<'t> Walk<'t> {
    fn say(&mut self, what: String) {
        self.found.get_or_insert(what);
    }

    fn all<'e>(&mut self, list: impl IntoIterator<Item = &'e Expr>) -> Option<&'t dyn Typing> {
        for expr in list {
            self.expr(expr);
        }
        None
    }

    /// What is known of the value.
    fn expr(&mut self, expr: &Expr) -> Option<&'t dyn Typing> {
        match expr {
            Expr::Name(name) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                if let Some((_, typing)) = found {
                    return *typing;
                }
                if !TYPES.contains(&name.as_str()) {
                    self.say(format!("undeclared reference to '{name}' (in container '')"));
                }
                None
            }
            Expr::Field(of, name, _) | Expr::Has(of, name) => {
                let of = self.expr(of)?;
                let plain = if of.is_object() { unescape(name) } else { name.clone() };
                let field = of.field(&plain);
                if field.is_none() && of.closed() {
                    self.say(format!("undefined field '{name}'"));
                }
                field
            }
            Expr::Index(of, index, _) => {
                let of = self.expr(of);
                self.expr(index);
                let of = of?;
                match &**index {
                    Expr::Text(name) => of.field(name),
                    _ => of.item().or_else(|| of.field("")),
                }
            }
            Expr::Call(name, arguments) => {
                if !FUNCTIONS.contains(&name.as_str()) {
                    self.say(format!("undeclared reference to '{name}' (in container '')"));
                }
                self.all(arguments)
            }
            Expr::Method(of, name, arguments) => self.method(of, name, arguments),
            Expr::List(items) => self.all(items.iter().map(|(item, _)| item)),
            Expr::Map(entries) => self.all(entries.iter().flat_map(|(key, value, _)| [key, value])),
            Expr::Not(inner) | Expr::Negate(inner) => self.all([&**inner]),
            Expr::All(parts) | Expr::Any(parts) => self.all(parts),
            Expr::Choice(parts) => self.all(parts.iter()),
            Expr::Binary(_, left, right) => self.all([&**left, &**right]),
            Expr::Macro(of) => self.comprehension(of),
            Expr::Null
            | Expr::Bool(_)
            | Expr::Int(_)
            | Expr::Uint(_)
            | Expr::Double(_)
            | Expr::Text(_)
            | Expr::Bytes(_) => None,
        }
    }

    fn method(&mut self, of: &Expr, name: &str, arguments: &[Expr]) -> Option<&'t dyn Typing> {
        let library = match of {
            Expr::Name(library) if self.variables.iter().all(|(known, _)| known != library) => {
                LIBRARIES.contains(&library.as_str()).then(|| format!("{library}.{name}"))
            }
            _ => None,
        };
        match library {
            Some(function) if FUNCTIONS.contains(&function.as_str()) => {}
            Some(function) => self.say(format!("undeclared reference to '{function}' (in container '')")),
            None => {
                self.expr(of);
                if !METHODS.contains(&name) {
                    self.say(format!("undeclared reference to '{name}' (in container '')"));
                }
            }
        }
        self.all(arguments)
    }

    fn comprehension(&mut self, of: &Macro) -> Option<&'t dyn Typing> {
        let range = self.expr(&of.range);
        let depth = self.variables.len();
        let item = range.and_then(|range| range.item());
        let value = item.or_else(|| range.and_then(|range| range.field("")));
        match of.names.as_slice() {
            [one] => self.variables.push((one.clone(), item)),
            [key, second] => {
                self.variables.push((key.clone(), None));
                self.variables.push((second.clone(), value));
            }
            _ => {}
        }
        self.all(of.filter.iter().chain([&of.body]));
        self.variables.truncate(depth);
        None
    }
}
