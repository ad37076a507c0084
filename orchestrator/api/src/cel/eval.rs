//! Evaluation. Every step costs; when the budget is spent, evaluation ends.

use std::cell::Cell;
use std::rc::Rc;

use super::ast::{Expr, Operator, Presence};
use super::value::Val;
use super::{functions, macros, ops};

/// Why there is no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The budget is spent.
    #[error("cost budget exceeded")]
    Budget,
    /// A variable that nobody set.
    #[error("undeclared reference to '{0}'")]
    Undeclared(String),
    /// A field or key that is not there.
    #[error("no such key: {0}")]
    NoSuchKey(String),
    /// An operation on values that it is not made for.
    #[error("no such overload: {0}")]
    NoOverload(String),
    /// Anything else, such as a division by zero.
    #[error("{0}")]
    Failed(String),
}

/// What may be spent on evaluations.
#[derive(Debug)]
pub struct Budget(Cell<u64>);

impl Budget {
    /// So many steps.
    pub fn new(steps: u64) -> Self {
        Budget(Cell::new(steps))
    }

    /// What is left.
    pub fn left(&self) -> u64 {
        self.0.get()
    }

    /// Takes from it.
    ///
    /// # Errors
    /// When that is more than is left; then nothing is.
    pub fn spend(&self, steps: u64) -> Result<(), EvalError> {
        match self.0.get().checked_sub(steps) {
            Some(left) => {
                self.0.set(left);
                Ok(())
            }
            None => {
                self.0.set(0);
                Err(EvalError::Budget)
            }
        }
    }
}

pub(super) type Result<T, E = EvalError> = std::result::Result<T, E>;

/// Names with their values.
pub type Bindings<'a> = Vec<(String, Val<'a>)>;

/// Evaluates an expression.
///
/// # Errors
/// There is no value, or the budget is spent.
pub fn evaluate<'a>(expr: &Expr, bindings: Bindings<'a>, budget: &Budget) -> Result<Val<'a>> {
    Scope { names: bindings, budget }.eval(expr)
}

/// The variables of a place in an expression.
pub(super) struct Scope<'a, 'b> {
    pub(super) names: Bindings<'a>,
    pub(super) budget: &'b Budget,
}

impl<'a> Scope<'a, '_> {
    pub(super) fn spend(&self, steps: usize) -> Result<()> {
        self.budget.spend(steps as u64)
    }

    pub(super) fn eval(&mut self, expr: &Expr) -> Result<Val<'a>> {
        self.spend(1)?;
        Ok(match expr {
            Expr::Null => Val::Null,
            Expr::Bool(value) => Val::Bool(*value),
            Expr::Int(value) => Val::Int(*value),
            Expr::Uint(value) => Val::Uint(*value),
            Expr::Double(value) => Val::Double(*value),
            Expr::Text(text) => {
                self.spend(text.len() / 64)?;
                Val::Text(text.clone().into())
            }
            Expr::Bytes(bytes) => Val::Bytes(Rc::from(bytes.as_slice())),
            Expr::Name(name) => return self.name(name),
            Expr::Field(of, name, presence) => return self.field(of, name, *presence),
            Expr::Has(of, name) => {
                let of = self.eval(of)?;
                Val::Bool(match &of {
                    Val::Optional(inner) => inner.as_ref().is_some_and(|inner| inner.field(name).is_some()),
                    of => of.field(name).is_some(),
                })
            }
            Expr::Index(of, index, presence) => return self.index(of, index, *presence),
            Expr::Call(name, arguments) => {
                let arguments = self.eval_all(arguments)?;
                return functions::call(self, name, &arguments);
            }
            Expr::Method(of, name, arguments) => return self.method(of, name, arguments),
            Expr::List(items) => return self.list(items),
            Expr::Map(entries) => return self.map(entries),
            Expr::Not(inner) => match self.eval(inner)? {
                Val::Bool(value) => Val::Bool(!value),
                other => return Err(ops::no_overload("!", &[&other])),
            },
            Expr::Negate(inner) => return ops::negate(&self.eval(inner)?),
            Expr::All(parts) => return self.logic(parts, false),
            Expr::Any(parts) => return self.logic(parts, true),
            Expr::Choice(parts) => {
                let [condition, yes, no] = &**parts;
                return match self.eval(condition)? {
                    Val::Bool(true) => self.eval(yes),
                    Val::Bool(false) => self.eval(no),
                    other => Err(ops::no_overload("_?_:_", &[&other])),
                };
            }
            Expr::Binary(operator, left, right) => {
                let (left, right) = (self.eval(left)?, self.eval(right)?);
                return self.binary(*operator, &left, &right);
            }
            Expr::Macro(of) => return macros::eval(self, of),
        })
    }

    fn eval_all(&mut self, list: &[Expr]) -> Result<Vec<Val<'a>>> {
        list.iter().map(|expr| self.eval(expr)).collect()
    }

    fn name(&self, name: &str) -> Result<Val<'a>> {
        if let Some((_, value)) = self.names.iter().rev().find(|(known, _)| known == name) {
            return Ok(value.clone());
        }
        let types = ["int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type"];
        match types.iter().find(|known| **known == name) {
            Some(known) => Ok(Val::Type(known)),
            None => Err(EvalError::Undeclared(name.to_owned())),
        }
    }

    fn field(&mut self, of: &Expr, name: &str, presence: Presence) -> Result<Val<'a>> {
        let of = self.eval(of)?;
        let (of, optional) = match of {
            Val::Optional(None) => return Ok(Val::Optional(None)),
            Val::Optional(Some(inner)) => ((*inner).clone(), true),
            of => (of, presence == Presence::Optional),
        };
        if of.map_len().is_none() {
            return Err(EvalError::NoOverload(format!("field '{name}' of a {}", of.type_name())));
        }
        match (of.field(name), optional) {
            (Some(value), false) => Ok(value),
            (None, false) => Err(EvalError::NoSuchKey(name.to_owned())),
            (value, true) => Ok(Val::Optional(value.map(Rc::new))),
        }
    }

    fn index(&mut self, of: &Expr, index: &Expr, presence: Presence) -> Result<Val<'a>> {
        let (of, index) = (self.eval(of)?, self.eval(index)?);
        let (of, optional) = match of {
            Val::Optional(None) => return Ok(Val::Optional(None)),
            Val::Optional(Some(inner)) => ((*inner).clone(), true),
            of => (of, presence == Presence::Optional),
        };
        let found = match (&of, &index) {
            (Val::List(_) | Val::JsonList(..), index) => {
                let at = ops::as_index(index).ok_or_else(|| ops::no_overload("_[_]", &[&of, index]))?;
                usize::try_from(at).ok().and_then(|at| of.item(at))
            }
            (Val::Map(entries), _) => {
                self.spend(entries.len())?;
                of.entry(&index)
            }
            (Val::JsonMap(..), _) => of.entry(&index),
            _ => return Err(ops::no_overload("_[_]", &[&of, &index])),
        };
        match (found, optional) {
            (Some(value), false) => Ok(value),
            (value, true) => Ok(Val::Optional(value.map(Rc::new))),
            (None, false) if of.list_len().is_some() => {
                Err(EvalError::Failed(format!("index out of bounds: {}", ops::show(&index))))
            }
            (None, false) => Err(EvalError::NoSuchKey(ops::show(&index))),
        }
    }

    fn method(&mut self, of: &Expr, name: &str, arguments: &[Expr]) -> Result<Val<'a>> {
        // `sets.contains(…)`, `optional.of(…)`: a library's name and not a value.
        if let Expr::Name(library) = of
            && functions::LIBRARIES.contains(&library.as_str())
            && self.names.iter().all(|(known, _)| known != library)
        {
            let arguments = self.eval_all(arguments)?;
            return functions::call(self, &format!("{library}.{name}"), &arguments);
        }
        let of = self.eval(of)?;
        let lazy = matches!((&of, name), (Val::Optional(Some(_)), "or" | "orValue"));
        if lazy {
            return functions::method(self, &of, name, &[]);
        }
        let arguments = self.eval_all(arguments)?;
        functions::method(self, &of, name, &arguments)
    }

    fn list(&mut self, items: &[(Expr, Presence)]) -> Result<Val<'a>> {
        let mut list = Vec::with_capacity(items.len());
        for (item, presence) in items {
            match (self.eval(item)?, presence) {
                (Val::Optional(inner), Presence::Optional) => {
                    list.extend(inner.map(|inner| (*inner).clone()))
                }
                (value, _) => list.push(value),
            }
        }
        Ok(Val::list(list))
    }

    fn map(&mut self, entries: &[(Expr, Expr, Presence)]) -> Result<Val<'a>> {
        let mut map: Vec<(Val<'a>, Val<'a>)> = Vec::with_capacity(entries.len());
        for (key, value, presence) in entries {
            let key = self.eval(key)?;
            self.spend(map.len())?;
            if map.iter().any(|(known, _)| ops::equal(known, &key)) {
                return Err(EvalError::Failed(format!("repeated key: {}", ops::show(&key))));
            }
            match (self.eval(value)?, presence) {
                (Val::Optional(inner), Presence::Optional) => {
                    map.extend(inner.map(|inner| (key, (*inner).clone())));
                }
                (value, _) => map.push((key, value)),
            }
        }
        Ok(Val::Map(Rc::new(map)))
    }

    /// `&&` and `||`: a side that decides makes errors of the others unheard.
    fn logic(&mut self, parts: &[Expr], decides: bool) -> Result<Val<'a>> {
        let mut failure = None;
        for part in parts {
            match self.eval(part) {
                Ok(Val::Bool(value)) if value == decides => return Ok(Val::Bool(decides)),
                Ok(Val::Bool(_)) => {}
                Ok(other) => {
                    let operator = if decides { "||" } else { "&&" };
                    failure.get_or_insert(ops::no_overload(operator, &[&other]));
                }
                Err(EvalError::Budget) => return Err(EvalError::Budget),
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        failure.map_or(Ok(Val::Bool(!decides)), Err)
    }

    fn binary(&mut self, operator: Operator, left: &Val<'a>, right: &Val<'a>) -> Result<Val<'a>> {
        match operator {
            Operator::Equal | Operator::NotEqual => {
                self.spend(ops::weight(left).min(ops::weight(right)) / 10)?;
                Ok(Val::Bool(ops::equal(left, right) == (operator == Operator::Equal)))
            }
            Operator::In => self.contains(right, left),
            Operator::Add => {
                self.spend((left.weight() + right.weight()) / 10)?;
                ops::add(left, right)
            }
            Operator::Subtract | Operator::Multiply | Operator::Divide | Operator::Modulo => {
                ops::arithmetic(operator, left, right)
            }
            Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
                self.spend(left.weight().min(right.weight()) / 10)?;
                let order = ops::compare(left, right)
                    .ok_or_else(|| ops::no_overload("comparison", &[left, right]))?;
                Ok(Val::Bool(match operator {
                    Operator::Less => order.is_lt(),
                    Operator::LessOrEqual => order.is_le(),
                    Operator::Greater => order.is_gt(),
                    _ => order.is_ge(),
                }))
            }
        }
    }

    pub(super) fn contains(&self, list: &Val<'a>, item: &Val<'a>) -> Result<Val<'a>> {
        if let Some(items) = list.items() {
            for one in items {
                self.spend(1 + ops::weight(item) / 10)?;
                if ops::equal(&one, item) {
                    return Ok(Val::Bool(true));
                }
            }
            return Ok(Val::Bool(false));
        }
        match list {
            Val::Map(entries) => {
                self.spend(entries.len())?;
                Ok(Val::Bool(list.entry(item).is_some()))
            }
            Val::JsonMap(..) => Ok(Val::Bool(list.entry(item).is_some())),
            _ => Err(ops::no_overload("in", &[item, list])),
        }
    }
}
