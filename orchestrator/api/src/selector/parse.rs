//! The text form of label selectors: tokens, requirements, and the errors of both.

use super::{Equality, Operator, Requirement};
use crate::name;

/// Why a selector was refused; the text goes to the client behind `unable to parse`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// A token stands where another was expected.
    #[error("unable to parse requirement: found '{found}', expected: {expected}")]
    Unexpected {
        /// What stands there.
        found: String,
        /// What could stand there.
        expected: &'static str,
    },
    /// The key is no label key.
    #[error("unable to parse requirement: key: Invalid value: {}: {why}", crate::status::quoted(.key))]
    Key {
        /// The key.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// A value is no label value.
    #[error("unable to parse requirement: values[0][{key}]: Invalid value: {}: {why}", crate::status::quoted(.value))]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// The number of values does not fit the operator.
    #[error("unable to parse requirement: values: Invalid value: {values:?}: {why}")]
    Count {
        /// The values.
        values: Vec<String>,
        /// What the operator wants.
        why: &'static str,
    },
    /// An operator of the object form that does not exist.
    #[error("{} is not a valid label selector operator", crate::status::quoted(.0))]
    Operator(String),
}

/// Checks key and values of a requirement.
pub(super) fn check(key: &str, operator: Operator, values: &[String]) -> Result<(), SelectorError> {
    let wrong = |why| Err(SelectorError::Count { values: values.to_vec(), why });
    let messages = name::qualified_name(key);
    if !messages.is_empty() {
        return Err(SelectorError::Key { key: key.into(), why: messages.join("; ") });
    }
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            return wrong("for 'in', 'notin' operators, values set can't be empty");
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            return wrong("values set must be empty for exists and does not exist");
        }
        Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
            return wrong("for 'Gt', 'Lt' operators, exactly one value is required");
        }
        Operator::GreaterThan | Operator::LessThan if values[0].parse::<i64>().is_err() => {
            return wrong("for 'Gt', 'Lt' operators, the value must be an integer");
        }
        _ => {}
    }
    for value in values {
        let messages = name::label_value(value);
        if !messages.is_empty() {
            let why = messages.join("; ");
            return Err(SelectorError::Value { key: key.into(), value: value.clone(), why });
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Comma,
    Open,
    Close,
    Not,
    Equals,
    NotEquals,
    Greater,
    Less,
    End,
    Other(&'a str),
}

struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    fn peek(&self) -> Token<'a> {
        self.split().0
    }

    fn next(&mut self) -> Token<'a> {
        let (token, rest) = self.split();
        self.rest = rest;
        token
    }

    fn split(&self) -> (Token<'a>, &'a str) {
        let text = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let fixed = [
            ("==", Token::Equals),
            ("!=", Token::NotEquals),
            ("=", Token::Equals),
            ("!", Token::Not),
            (",", Token::Comma),
            ("(", Token::Open),
            (")", Token::Close),
            (">", Token::Greater),
            ("<", Token::Less),
        ];
        for (symbol, token) in fixed {
            if let Some(rest) = text.strip_prefix(symbol) {
                return match (symbol, rest.starts_with('=')) {
                    ("==" | "!=", true) => (Token::Other(&text[..3]), &rest[1..]),
                    _ => (token, rest),
                };
            }
        }
        let special = |c: char| " \t\r\n=!,()<>".contains(c);
        let (word, rest) = text.split_at(text.find(special).unwrap_or(text.len()));
        (if word.is_empty() { Token::End } else { Token::Word(word) }, rest)
    }
}

fn literal(token: Token<'_>) -> &str {
    match token {
        Token::Word(text) | Token::Other(text) => text,
        Token::Comma => ",",
        Token::Open => "(",
        Token::Close => ")",
        Token::Not => "!",
        Token::Equals => "=",
        Token::NotEquals => "!=",
        Token::Greater => ">",
        Token::Less => "<",
        Token::End => "",
    }
}

fn unexpected<T>(found: Token<'_>, expected: &'static str) -> Result<T, SelectorError> {
    Err(SelectorError::Unexpected { found: literal(found).to_owned(), expected })
}

/// All requirements of a selector, sorted by key.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut tokens = Tokens { rest: text };
    let mut requirements = Vec::new();
    loop {
        match tokens.peek() {
            Token::End if requirements.is_empty() => break,
            Token::Word(_) | Token::Not => requirements.push(requirement(&mut tokens)?),
            other => return unexpected(other, "!, identifier, or 'end of string'"),
        }
        match tokens.next() {
            Token::End => break,
            Token::Comma => match tokens.peek() {
                Token::Word(_) | Token::Not => {}
                other => return unexpected(other, "identifier after ','"),
            },
            other => return unexpected(other, "',' or 'end of string'"),
        }
    }
    requirements.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(requirements)
}

fn requirement(tokens: &mut Tokens<'_>) -> Result<Requirement, SelectorError> {
    let negated = tokens.peek() == Token::Not;
    if negated {
        tokens.next();
    }
    let key = match tokens.next() {
        Token::Word(key) => key,
        other => return unexpected(other, "identifier"),
    };
    if negated {
        return Requirement::new(key, Operator::DoesNotExist, &[]);
    }
    let (operator, equality) = match tokens.peek() {
        Token::End | Token::Comma => return Requirement::new(key, Operator::Exists, &[]),
        Token::Equals => (Operator::In, Equality::Written),
        Token::NotEquals => (Operator::NotIn, Equality::Written),
        Token::Greater => (Operator::GreaterThan, Equality::Set),
        Token::Less => (Operator::LessThan, Equality::Set),
        Token::Word("in") => (Operator::In, Equality::Set),
        Token::Word("notin") => (Operator::NotIn, Equality::Set),
        other => return unexpected(other, "in, notin, =, ==, !=, gt, lt"),
    };
    tokens.next();
    let set = equality == Equality::Set && matches!(operator, Operator::In | Operator::NotIn);
    let values = if set { value_set(tokens)? } else { vec![exact_value(tokens)?] };
    Ok(Requirement { equality, ..Requirement::new(key, operator, &values)? })
}

fn exact_value<'a>(tokens: &mut Tokens<'a>) -> Result<&'a str, SelectorError> {
    match tokens.peek() {
        Token::End | Token::Comma => Ok(""),
        Token::Word(value) => {
            tokens.next();
            Ok(value)
        }
        other => unexpected(other, "identifier"),
    }
}

/// `(a, b,)`: a missing word between commas is the empty value.
fn value_set<'a>(tokens: &mut Tokens<'a>) -> Result<Vec<&'a str>, SelectorError> {
    match tokens.next() {
        Token::Open => {}
        other => return unexpected(other, "'('"),
    }
    let mut values = Vec::new();
    loop {
        let value = match tokens.peek() {
            Token::Word(value) => {
                tokens.next();
                value
            }
            Token::Comma | Token::Close => "",
            other => return unexpected(other, "',', ')' or identifier"),
        };
        values.push(value);
        match tokens.next() {
            Token::Comma => {}
            Token::Close => return Ok(values),
            other => return unexpected(other, "',' or ')'"),
        }
    }
}
