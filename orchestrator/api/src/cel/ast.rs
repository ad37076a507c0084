//! Parsed expressions; macros are nodes of their own.

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// `1`
    Int(i64),
    /// `1u`
    Uint(u64),
    /// `1.5`
    Double(f64),
    /// `"a"`
    Text(String),
    /// `b"a"`
    Bytes(Vec<u8>),
    /// A variable.
    Name(String),
    /// `a.b`, or `a.?b`
    Field(Box<Expr>, String, Presence),
    /// `has(a.b)`
    Has(Box<Expr>, String),
    /// `a[b]`, or `a[?b]`
    Index(Box<Expr>, Box<Expr>, Presence),
    /// `f(a)`
    Call(String, Vec<Expr>),
    /// `a.f(b)`
    Method(Box<Expr>, String, Vec<Expr>),
    /// `[a, ?b]`
    List(Vec<(Expr, Presence)>),
    /// `{a: b, ?c: d}`
    Map(Vec<(Expr, Expr, Presence)>),
    /// `!a`
    Not(Box<Expr>),
    /// `-a`
    Negate(Box<Expr>),
    /// `a && b && …`
    All(Vec<Expr>),
    /// `a || b || …`
    Any(Vec<Expr>),
    /// `a ? b : c`
    Choice(Box<[Expr; 3]>),
    /// `a + b` and the like.
    Binary(Operator, Box<Expr>, Box<Expr>),
    /// `a.all(x, b)` and the like.
    Macro(Box<Macro>),
}

impl Expr {
    /// Whether a variable occurs in it.
    pub fn uses(&self, name: &str) -> bool {
        let any = |list: &[Expr]| list.iter().any(|expr| expr.uses(name));
        match self {
            Expr::Name(found) => found == name,
            Expr::Field(of, ..) | Expr::Has(of, _) | Expr::Not(of) | Expr::Negate(of) => of.uses(name),
            Expr::Index(of, index, _) | Expr::Binary(_, of, index) => of.uses(name) || index.uses(name),
            Expr::Call(_, list) | Expr::All(list) | Expr::Any(list) => any(list),
            Expr::Method(of, _, list) => of.uses(name) || any(list),
            Expr::List(items) => items.iter().any(|(item, _)| item.uses(name)),
            Expr::Map(entries) => entries.iter().any(|(key, value, _)| key.uses(name) || value.uses(name)),
            Expr::Choice(parts) => any(&parts[..]),
            Expr::Macro(of) => {
                of.range.uses(name) || of.body.uses(name) || of.filter.as_ref().is_some_and(|f| f.uses(name))
            }
            _ => false,
        }
    }
}

/// What happens when a part is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// An error.
    Required,
    /// Nothing: the result is an optional value.
    Optional,
}

/// Operators with two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
    /// `%`
    Modulo,
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `in`
    In,
}

/// A comprehension: an expression for each item of a list or key of a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Macro {
    /// Which.
    pub kind: MacroKind,
    /// What is gone through.
    pub range: Expr,
    /// One variable, or two: index and item, or key and value.
    pub names: Vec<String>,
    /// A condition, or what an item becomes.
    pub body: Expr,
    /// Only items that satisfy this.
    pub filter: Option<Expr>,
}

/// The macros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacroKind {
    /// `all`
    All,
    /// `exists`
    Exists,
    /// `exists_one`
    ExistsOne,
    /// `map`, `transformList`
    Map,
    /// `filter`
    Filter,
    /// `transformMap`
    TransformMap,
    /// `optMap`
    OptMap,
    /// `optFlatMap`
    OptFlatMap,
}

impl MacroKind {
    /// The macro of a method with so many arguments, if it is one.
    pub(super) fn of(name: &str, arguments: usize) -> Option<MacroKind> {
        Some(match (name, arguments) {
            ("all", 2 | 3) => MacroKind::All,
            ("exists", 2 | 3) => MacroKind::Exists,
            ("exists_one" | "existsOne", 2 | 3) => MacroKind::ExistsOne,
            ("map", 2 | 3) | ("transformList", 3 | 4) => MacroKind::Map,
            ("filter", 2) => MacroKind::Filter,
            ("transformMap", 3 | 4) => MacroKind::TransformMap,
            ("optMap", 2) => MacroKind::OptMap,
            ("optFlatMap", 2) => MacroKind::OptFlatMap,
            _ => return None,
        })
    }
}
