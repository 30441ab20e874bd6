//! `${name}` and `${f(args)}` in a scalar: text to pieces.
//!
//! There are no operators, filters or format codes, so an expression is a name, a literal or a
//! call. `$${` is a literal `${`. What a name means, and whether it is known where it stands, is
//! decided where the text is used.

/// One part of a scalar.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Piece {
    Literal(String),
    Expression {
        /// Characters before the `$`.
        offset: usize,
        value: Expression,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expression {
    /// With its dots: `vars.broker`.
    Name(String),
    Call {
        function: String,
        arguments: Vec<Expression>,
    },
    /// A number as written, perhaps with a unit.
    Number(String),
    Text(String),
}

/// Why a scalar is no text with expressions; `offset` is that of the expression's `$`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) offset: usize,
    pub(crate) message: String,
}

const MAX_NESTING: usize = 16;

pub(crate) fn parse(text: &str) -> Result<Vec<Piece>, Malformed> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    let mut offset = 0;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("$${") {
            literal.push_str("${");
            rest = after;
            offset += 3;
        } else if let Some(after) = rest.strip_prefix("${") {
            let mut lexer = Lexer { rest: after, consumed: 0 };
            let value = lexer.braced().map_err(|message| Malformed { offset, message })?;
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Expression { offset, value });
            offset += 2 + lexer.consumed;
            rest = lexer.rest;
        } else {
            let mut chars = rest.chars();
            literal.extend(chars.next());
            rest = chars.as_str();
            offset += 1;
        }
    }
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

struct Lexer<'t> {
    rest: &'t str,
    /// Characters taken so far.
    consumed: usize,
}

impl Lexer<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next()?;
        self.rest = chars.as_str();
        self.consumed += 1;
        Some(c)
    }

    fn take_while(&mut self, fits: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        while let Some(c) = self.peek().filter(|c| fits(*c)) {
            taken.push(c);
            self.take();
        }
        taken
    }

    fn blank(&mut self) {
        self.take_while(char::is_whitespace);
    }

    /// The expression and its closing brace.
    fn braced(&mut self) -> Result<Expression, String> {
        self.blank();
        if self.peek() == Some('}') {
            return Err("an expression is empty: a name or a function is expected".to_owned());
        }
        let value = self.expression(0)?;
        self.blank();
        match self.take() {
            Some('}') => Ok(value),
            other => Err(unexpected(other)),
        }
    }

    fn expression(&mut self, depth: usize) -> Result<Expression, String> {
        if depth > MAX_NESTING {
            return Err(format!("functions are nested deeper than {MAX_NESTING} levels"));
        }
        self.blank();
        match self.peek() {
            Some(quote @ ('\'' | '"')) => {
                self.take();
                let text = self.take_while(|c| c != quote);
                match self.take() {
                    Some(_) => Ok(Expression::Text(text)),
                    None => Err(format!("a text is not closed by {quote}")),
                }
            }
            Some(c) if c.is_ascii_digit() || c == '-' || c == '.' => {
                let mut number = String::new();
                if c == '-' {
                    self.take();
                    if !self.peek().is_some_and(|c| c.is_ascii_digit() || c == '.') {
                        return Err(unexpected(Some('-')));
                    }
                    number.push('-');
                }
                number.push_str(&self.take_while(|c| c.is_ascii_alphanumeric() || c == '.'));
                Ok(Expression::Number(number))
            }
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                let name = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
                self.blank();
                if self.peek() != Some('(') {
                    return Ok(Expression::Name(name));
                }
                self.take();
                let arguments = self.arguments(depth)?;
                Ok(Expression::Call { function: name, arguments })
            }
            other => Err(unexpected(other)),
        }
    }

    fn arguments(&mut self, depth: usize) -> Result<Vec<Expression>, String> {
        let mut arguments = Vec::new();
        self.blank();
        if self.peek() == Some(')') {
            self.take();
            return Ok(arguments);
        }
        loop {
            arguments.push(self.expression(depth + 1)?);
            self.blank();
            match self.take() {
                Some(',') => {}
                Some(')') => return Ok(arguments),
                other => return Err(unexpected(other)),
            }
        }
    }
}

fn unexpected(found: Option<char>) -> String {
    match found {
        None => "`${` is not closed by `}`".to_owned(),
        Some(c) => {
            format!("`{c}` is not allowed in an expression: only names and functions")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_text_is_cut_at_its_expressions() {
        let pieces = parse("ä-${pad(index, 6)}$${x}").unwrap();
        assert_eq!(
            pieces,
            [
                Piece::Literal("ä-".to_owned()),
                Piece::Expression {
                    offset: 2,
                    value: Expression::Call {
                        function: "pad".to_owned(),
                        arguments: vec![
                            Expression::Name("index".to_owned()),
                            Expression::Number("6".to_owned())
                        ],
                    },
                },
                Piece::Literal("${x}".to_owned()),
            ]
        );
    }

    #[test]
    fn operators_are_named_in_the_refusal() {
        let error = parse("a ${index + 1}").unwrap_err();
        assert_eq!(error.offset, 2);
        assert_eq!(error.message, "`+` is not allowed in an expression: only names and functions");
        assert!(parse("${index").unwrap_err().message.contains("not closed"));
        assert!(parse("${}").unwrap_err().message.contains("empty"));
        let deep = format!("${{{}", "hex(".repeat(1000));
        assert!(parse(&deep).unwrap_err().message.contains("deeper"));
    }

    proptest! {
        #[test]
        fn any_text_parses_or_is_refused(text in "[${}()a-z0-9., '\"-]{0,60}") {
            let _ = parse(&text);
        }
    }
}
