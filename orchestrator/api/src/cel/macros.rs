//! Comprehensions.

use std::rc::Rc;

use super::ast::{Expr, Macro, MacroKind};
use super::eval::{EvalError, Result, Scope};
use super::ops;
use super::value::Val;

pub(super) fn eval<'a>(scope: &mut Scope<'a, '_>, of: &Macro) -> Result<Val<'a>> {
    let range = scope.eval(&of.range)?;
    if let MacroKind::OptMap | MacroKind::OptFlatMap = of.kind {
        return optional(scope, of, &range);
    }
    let pairs: Vec<(Val<'a>, Val<'a>)> = match range.items() {
        Some(items) => {
            let index = |at: usize| Val::Int(i64::try_from(at).unwrap_or(i64::MAX));
            items.enumerate().map(|(at, item)| (index(at), item)).collect()
        }
        None => range.entries().ok_or_else(|| ops::no_overload("comprehension", &[&range]))?,
    };
    scope.spend(pairs.len())?;
    let is_list = range.list_len().is_some();
    let mut gathered = Gathered::default();
    for (key, value) in pairs {
        let depth = scope.names.len();
        match of.names.as_slice() {
            [one] => scope.names.push((one.clone(), if is_list { value.clone() } else { key.clone() })),
            names => {
                for (name, part) in names.iter().zip([&key, &value]) {
                    scope.names.push((name.clone(), part.clone()));
                }
            }
        }
        let item = if of.names.len() == 1 && !is_list { key.clone() } else { value };
        let step = gathered.step(scope, of, (key, item));
        scope.names.truncate(depth);
        if step? == Next::Decided {
            break;
        }
    }
    gathered.finish(of.kind)
}

#[derive(PartialEq)]
enum Next {
    More,
    Decided,
}

#[derive(Default)]
struct Gathered<'a> {
    list: Vec<Val<'a>>,
    map: Vec<(Val<'a>, Val<'a>)>,
    hits: usize,
    decided: bool,
    failure: Option<EvalError>,
}

impl<'a> Gathered<'a> {
    fn step(
        &mut self,
        scope: &mut Scope<'a, '_>,
        of: &Macro,
        (key, item): (Val<'a>, Val<'a>),
    ) -> Result<Next> {
        if let Some(filter) = &of.filter
            && !truth(scope, filter)?
        {
            return Ok(Next::More);
        }
        match of.kind {
            MacroKind::All | MacroKind::Exists => match truth(scope, &of.body) {
                Ok(value) if value == (of.kind == MacroKind::Exists) => {
                    self.decided = true;
                    return Ok(Next::Decided);
                }
                Ok(_) => {}
                Err(EvalError::Budget) => return Err(EvalError::Budget),
                // A later item may still decide.
                Err(error) => {
                    self.failure.get_or_insert(error);
                }
            },
            MacroKind::ExistsOne => self.hits += usize::from(truth(scope, &of.body)?),
            MacroKind::Filter => {
                if truth(scope, &of.body)? {
                    self.list.push(item);
                }
            }
            MacroKind::TransformMap => {
                let value = scope.eval(&of.body)?;
                self.map.push((key, value));
            }
            MacroKind::Map | MacroKind::OptMap | MacroKind::OptFlatMap => {
                let value = scope.eval(&of.body)?;
                self.list.push(value);
            }
        }
        Ok(Next::More)
    }

    fn finish(self, kind: MacroKind) -> Result<Val<'a>> {
        Ok(match kind {
            MacroKind::All | MacroKind::Exists => match (self.decided, self.failure) {
                (true, _) => Val::Bool(kind == MacroKind::Exists),
                (false, Some(error)) => return Err(error),
                (false, None) => Val::Bool(kind == MacroKind::All),
            },
            MacroKind::ExistsOne => Val::Bool(self.hits == 1),
            MacroKind::TransformMap => Val::Map(Rc::new(self.map)),
            _ => Val::list(self.list),
        })
    }
}

fn truth(scope: &mut Scope<'_, '_>, expr: &Expr) -> Result<bool> {
    match scope.eval(expr)? {
        Val::Bool(value) => Ok(value),
        other => Err(ops::no_overload("condition", &[&other])),
    }
}

fn optional<'a>(scope: &mut Scope<'a, '_>, of: &Macro, value: &Val<'a>) -> Result<Val<'a>> {
    let Val::Optional(inner) = value else { return Err(ops::no_overload("optMap", &[value])) };
    let (Some(inner), Some(name)) = (inner, of.names.first()) else { return Ok(Val::Optional(None)) };
    scope.names.push((name.clone(), (**inner).clone()));
    let made = scope.eval(&of.body);
    scope.names.pop();
    match (made?, of.kind) {
        (value @ Val::Optional(_), MacroKind::OptFlatMap) => Ok(value),
        (value, MacroKind::OptFlatMap) => Err(ops::no_overload("optFlatMap", &[&value])),
        (value, _) => Ok(Val::some(value)),
    }
}
