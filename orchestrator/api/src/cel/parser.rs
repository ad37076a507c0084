//! Tokens into expressions, by recursive descent.

use super::ast::{Expr, Macro, MacroKind, Operator, Presence};
use super::lexer::{Token, tokens};

/// How deep expressions may nest; what walks over them is recursive.
const DEPTH: usize = 120;
/// How long an expression may be.
const LENGTH: usize = 64 * 1024;

const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error at {at}: {what}")]
pub struct ParseError {
    /// Where, in bytes.
    pub at: usize,
    /// What is wrong there.
    pub what: String,
}

/// Reads an expression.
///
/// # Errors
/// The text is none, or it is too long or nests too deeply.
pub fn parse(text: &str) -> Result<Expr, ParseError> {
    if text.len() > LENGTH {
        return Err(ParseError { at: LENGTH, what: format!("an expression has at most {LENGTH} bytes") });
    }
    let mut parser = Parser { tokens: tokens(text)?, at: 0, end: text.len(), depth: 0 };
    let expr = parser.expr()?;
    match parser.peek() {
        None => Ok(expr),
        Some(_) => Err(parser.error("unexpected text after the expression")),
    }
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    at: usize,
    end: usize,
    depth: usize,
}

type Parsed = Result<Expr, ParseError>;

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(_, token)| token)
    }

    fn error(&self, what: &str) -> ParseError {
        let at = self.tokens.get(self.at).map_or(self.end, |(at, _)| *at);
        ParseError { at, what: what.to_owned() }
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self.peek(), Some(Token::Symbol(found)) if *found == symbol)
    }

    fn take(&mut self, symbol: &str) -> bool {
        let found = self.is(symbol);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: &str) -> Result<(), ParseError> {
        if self.take(symbol) { Ok(()) } else { Err(self.error(&format!("expected '{symbol}'"))) }
    }

    fn deeper(&mut self) -> Result<(), ParseError> {
        self.depth += 1;
        if self.depth > DEPTH { Err(self.error("the expression nests too deeply")) } else { Ok(()) }
    }

    fn expr(&mut self) -> Parsed {
        self.deeper()?;
        let before = self.depth;
        let condition = self.any()?;
        let expr = if self.take("?") {
            let yes = self.any()?;
            self.expect(":")?;
            let no = self.expr()?;
            Expr::Choice(Box::new([condition, yes, no]))
        } else {
            condition
        };
        self.depth = before - 1;
        Ok(expr)
    }

    fn any(&mut self) -> Parsed {
        let mut parts = vec![self.all()?];
        while self.take("||") {
            parts.push(self.all()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expr::Any(parts) })
    }

    fn all(&mut self) -> Parsed {
        let mut parts = vec![self.relation()?];
        while self.take("&&") {
            parts.push(self.relation()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expr::All(parts) })
    }

    fn relation(&mut self) -> Parsed {
        const OPERATORS: [(&str, Operator); 6] = [
            ("==", Operator::Equal),
            ("!=", Operator::NotEqual),
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        let mut left = self.sum()?;
        loop {
            let symbol = OPERATORS.iter().find(|(symbol, _)| self.is(symbol)).map(|(_, operator)| *operator);
            let is_in = matches!(self.peek(), Some(Token::Name(name)) if name == "in");
            let Some(operator) = symbol.or(is_in.then_some(Operator::In)) else { return Ok(left) };
            left = self.right(operator, left, Self::sum)?;
        }
    }

    fn sum(&mut self) -> Parsed {
        let mut left = self.product()?;
        loop {
            let operator = match () {
                () if self.is("+") => Operator::Add,
                () if self.is("-") => Operator::Subtract,
                () => return Ok(left),
            };
            left = self.right(operator, left, Self::product)?;
        }
    }

    fn product(&mut self) -> Parsed {
        let mut left = self.unary()?;
        loop {
            let operator = match () {
                () if self.is("*") => Operator::Multiply,
                () if self.is("/") => Operator::Divide,
                () if self.is("%") => Operator::Modulo,
                () => return Ok(left),
            };
            left = self.right(operator, left, Self::unary)?;
        }
    }

    /// The operator stands here; chains of operators make deep trees, so each counts.
    fn right(&mut self, operator: Operator, left: Expr, next: fn(&mut Self) -> Parsed) -> Parsed {
        self.at += 1;
        self.deeper()?;
        let right = next(self)?;
        Ok(Expr::Binary(operator, Box::new(left), Box::new(right)))
    }

    fn unary(&mut self) -> Parsed {
        if self.take("!") {
            self.deeper()?;
            return Ok(Expr::Not(Box::new(self.unary()?)));
        }
        if self.take("-") {
            self.deeper()?;
            let number = match self.peek() {
                Some(Token::Int(value)) => Some(Expr::Int(-value)),
                Some(Token::LeastInt) => Some(Expr::Int(i64::MIN)),
                Some(Token::Double(value)) => Some(Expr::Double(-value)),
                _ => None,
            };
            if let Some(number) = number {
                self.at += 1;
                return self.member(number);
            }
            return Ok(Expr::Negate(Box::new(self.unary()?)));
        }
        let primary = self.primary()?;
        self.member(primary)
    }

    fn member(&mut self, mut of: Expr) -> Parsed {
        loop {
            if self.take(".") {
                self.deeper()?;
                let presence = if self.take("?") { Presence::Optional } else { Presence::Required };
                let name = self.field_name()?;
                if presence == Presence::Required && self.take("(") {
                    let arguments = self.list(")")?;
                    of = self.method(of, name, arguments)?;
                } else {
                    of = Expr::Field(Box::new(of), name, presence);
                }
            } else if self.take("[") {
                self.deeper()?;
                let presence = if self.take("?") { Presence::Optional } else { Presence::Required };
                let index = self.expr()?;
                self.expect("]")?;
                of = Expr::Index(Box::new(of), Box::new(index), presence);
            } else {
                return Ok(of);
            }
        }
    }

    fn field_name(&mut self) -> Result<String, ParseError> {
        let quoted = self.take("`");
        let mut name = String::new();
        while let Some((_, token)) = self.tokens.get(self.at) {
            match token {
                Token::Name(part) => name.push_str(part),
                Token::Symbol(part @ ("." | "-" | "/")) if quoted => name.push_str(part),
                Token::Int(number) if quoted => name.push_str(&number.to_string()),
                _ => break,
            }
            self.at += 1;
            if !quoted {
                return Ok(name);
            }
        }
        if !quoted || name.is_empty() {
            return Err(self.error("expected the name of a field"));
        }
        self.expect("`")?;
        Ok(name)
    }

    fn list(&mut self, end: &str) -> Result<Vec<Expr>, ParseError> {
        let mut list = Vec::new();
        while !self.take(end) {
            list.push(self.expr()?);
            if !self.take(",") {
                self.expect(end)?;
                break;
            }
        }
        Ok(list)
    }

    fn method(&mut self, of: Expr, name: String, mut arguments: Vec<Expr>) -> Parsed {
        let Some(kind) = MacroKind::of(&name, arguments.len()) else {
            return Ok(Expr::Method(Box::new(of), name, arguments));
        };
        let two = match name.as_str() {
            "transformList" | "transformMap" => true,
            "map" => false,
            _ => arguments.len() == 3,
        };
        let variables = if two { 2 } else { 1 };
        let mut names = Vec::new();
        for argument in arguments.drain(..variables) {
            match argument {
                Expr::Name(name) => names.push(name),
                _ => return Err(self.error("argument must be a simple name")),
            }
        }
        let body = arguments.pop().ok_or_else(|| self.error("a macro needs a body"))?;
        let filter = arguments.pop();
        Ok(Expr::Macro(Box::new(Macro { kind, range: of, names, body, filter })))
    }

    fn primary(&mut self) -> Parsed {
        let Some((_, token)) = self.tokens.get(self.at).cloned() else {
            return Err(self.error("unexpected end of the expression"));
        };
        self.at += 1;
        Ok(match token {
            Token::Int(value) => Expr::Int(value),
            Token::Uint(value) => Expr::Uint(value),
            Token::Double(value) => Expr::Double(value),
            Token::Text(text) => Expr::Text(text),
            Token::Bytes(bytes) => Expr::Bytes(bytes),
            Token::Name(name) => return self.name(name),
            Token::Symbol("(") => {
                let inner = self.expr()?;
                self.expect(")")?;
                inner
            }
            Token::Symbol("[") => self.list_literal()?,
            Token::Symbol("{") => self.map_literal()?,
            // A leading dot means the outermost scope, which is the only one here.
            Token::Symbol(".") => match self.tokens.get(self.at).cloned() {
                Some((_, Token::Name(name))) => {
                    self.at += 1;
                    return self.name(name);
                }
                _ => return Err(self.error("expected a name")),
            },
            _ => {
                self.at -= 1;
                return Err(self.error("expected an expression"));
            }
        })
    }

    fn name(&mut self, name: String) -> Parsed {
        match name.as_str() {
            "true" => return Ok(Expr::Bool(true)),
            "false" => return Ok(Expr::Bool(false)),
            "null" => return Ok(Expr::Null),
            "in" => return Err(self.error("expected an expression")),
            reserved if RESERVED.contains(&reserved) => {
                return Err(self.error(&format!("reserved identifier: {reserved}")));
            }
            _ => {}
        }
        if !self.take("(") {
            return Ok(Expr::Name(name));
        }
        let mut arguments = self.list(")")?;
        if name != "has" {
            return Ok(Expr::Call(name, arguments));
        }
        match (arguments.pop(), arguments.is_empty()) {
            (Some(Expr::Field(of, field, Presence::Required)), true) => Ok(Expr::Has(of, field)),
            _ => Err(self.error("invalid argument to has() macro")),
        }
    }

    fn list_literal(&mut self) -> Parsed {
        let mut items = Vec::new();
        while !self.take("]") {
            let presence = if self.take("?") { Presence::Optional } else { Presence::Required };
            items.push((self.expr()?, presence));
            if !self.take(",") {
                self.expect("]")?;
                break;
            }
        }
        Ok(Expr::List(items))
    }

    fn map_literal(&mut self) -> Parsed {
        let mut entries = Vec::new();
        while !self.take("}") {
            let presence = if self.take("?") { Presence::Optional } else { Presence::Required };
            let key = self.expr()?;
            self.expect(":")?;
            entries.push((key, self.expr()?, presence));
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(Expr::Map(entries))
    }
}
