//! The Common Expression Language (cel.dev) with the libraries that Kubernetes adds: parsing, and evaluation over
//! JSON values with a budget that bounds time.
//!
//! Our own rather than the `cel` crate: expressions come from users and run over users' objects, and an evaluation
//! there can neither be counted nor stopped; values here are borrowed from the object, typed by its schema.

mod ast;
mod check;
mod convert;
mod eval;
mod functions;
mod json;
mod lexer;
mod macros;
mod network;
mod ops;
mod parser;
mod strings;
mod value;

pub use ast::Expr;
pub use check::undeclared;
pub use eval::{Bindings, Budget, EvalError, evaluate};
pub use json::{Hint, ListKind, Typing};
pub use parser::{ParseError, parse};
pub use value::Val;

#[cfg(test)]
mod tests;
