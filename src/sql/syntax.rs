//! A cursor over one statement's tokens: what is expected next, and a sentence with its place where something else stands.

use std::ops::ControlFlow;

use sqlparser::ast;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::dialect::Sql;
use super::statement::{Name, fold};
use crate::error::{Code, Error, LineColumn, Result, Span};

/// Deepest nesting of parentheses, brackets and types.
const NESTING_MAX: usize = 26;

/// Deepest nesting of forms such as `CAST(…)` and `CASE`: where one fails, the parser tries it again as the call of a function, so
/// each level doubles its time.
const FORMS_MAX: usize = 8;

/// Deepest recursion of the parser; a level of parentheses takes up to three.
const RECURSION_MAX: usize = 128;

/// Most operators in one chain such as `a + b + …`: each makes the tree one level deeper, and a tree is cloned and dropped on the stack.
const CHAIN_MAX: usize = 256;

/// Most tables in one query, each time that one is named: a plan is about as deep as they are many, and its making takes time with
/// the cube of their number.
const RELATIONS_MAX: usize = 64;

pub(super) struct Cursor<'a> {
    parser: Parser<'a>,
    tokens: &'a [TokenWithSpan],
}

impl<'a> Cursor<'a> {
    /// A cursor at the first of `tokens`: one statement without its `;`, without blanks and comments, not empty.
    pub fn new(tokens: &'a [TokenWithSpan]) -> Result<Self> {
        check_depth(tokens)?;
        let parser = Parser::new(&Sql).with_recursion_limit(RECURSION_MAX).with_tokens_with_locations(tokens.to_vec());
        Ok(Cursor { parser, tokens })
    }

    pub fn peek(&self) -> &Token {
        self.peek_nth(0)
    }

    pub fn peek_nth(&self, n: usize) -> &Token {
        &self.parser.peek_nth_token_ref(n).token
    }

    pub fn skip(&mut self) {
        self.parser.advance_token();
    }

    pub fn at_end(&self) -> bool {
        self.peek() == &Token::EOF
    }

    /// The place of the next token; at the end, the character after the last one.
    pub fn here(&self) -> Span {
        match self.parser.peek_token_ref() {
            TokenWithSpan { token: Token::EOF, .. } => end_of(self.tokens),
            token => token.span.into(),
        }
    }

    /// From `start` to the end of the token before the cursor.
    pub fn since(&self, start: Span) -> Span {
        let taken = self.parser.index().min(self.tokens.len());
        let end = taken.checked_sub(1).map_or(start.end, |last| Span::from(self.tokens[last].span).end);
        Span { start: start.start, end: end.max(start.end) }
    }

    /// Whether the next words are these, in any case; it goes past none of them.
    pub fn sees(&self, words: &str) -> bool {
        words.split(' ').enumerate().all(|(n, word)| is_word(self.peek_nth(n), word))
    }

    /// Goes past these words, if all of them are next.
    pub fn takes(&mut self, words: &str) -> bool {
        let seen = self.sees(words);
        if seen {
            words.split(' ').for_each(|_| self.skip());
        }
        seen
    }

    /// Goes past this sign, if it is next.
    pub fn takes_sign(&mut self, sign: &Token) -> bool {
        let seen = self.peek() == sign;
        if seen {
            self.skip();
        }
        seen
    }

    pub fn expect(&mut self, words: &str) -> Result<()> {
        match self.takes(words) {
            true => Ok(()),
            false => Err(self.expected(&format!("`{words}`"))),
        }
    }

    pub fn expect_sign(&mut self, sign: &Token) -> Result<()> {
        match self.takes_sign(sign) {
            true => Ok(()),
            false => Err(self.expected(&format!("`{sign}`"))),
        }
    }

    pub fn expect_end(&self) -> Result<()> {
        match self.at_end() {
            true => Ok(()),
            false => {
                let error = self.expected("the end of the statement");
                match self.parser.peek_token_ref().token {
                    Token::Word(Word { keyword: Keyword::CREATE | Keyword::SELECT | Keyword::DROP | Keyword::SHOW, .. }) => {
                        Err(error.hint("is a `;` missing before it?"))
                    }
                    Token::Minus => match (self.tokens.get(self.parser.index().wrapping_sub(1)), self.peek_nth(1)) {
                        (Some(TokenWithSpan { token: Token::Word(word), .. }), Token::Word(next)) => {
                            Err(error.hint(format!("a name with a dash stands in double quotes: \"{word}-{next}\"")))
                        }
                        _ => Err(error),
                    },
                    _ => Err(error),
                }
            }
        }
    }

    /// A name of one part, for what `what` says.
    pub fn name(&mut self, what: &str) -> Result<Name> {
        let span = self.here();
        let ident = match self.peek() {
            Token::Word(word) => word.to_ident(self.parser.peek_token_ref().span),
            _ => return Err(self.expected(what)),
        };
        if fold(&ident).is_empty() {
            return Err(Error::new(Code::Syntax, "a name is empty").at(span));
        }
        self.skip();
        match self.peek() {
            Token::Period => {
                let dotted = format!("{}.{}", ident.value, self.peek_nth(1));
                Err(Error::new(Code::Syntax, format!("'{dotted}' is a name of several parts"))
                    .at(self.here())
                    .hint(format!("name it \"{dotted}\" in quotes, or without the dot")))
            }
            Token::Minus if matches!(self.peek_nth(1), Token::Word(_)) => {
                let dashed = format!("{}-{}", ident.value, self.peek_nth(1));
                Err(Error::new(Code::Syntax, format!("'{dashed}' has a dash in it"))
                    .at(self.here())
                    .hint(format!("write it \"{dashed}\", in double quotes")))
            }
            _ => Ok(Name::new(&ident)),
        }
    }

    /// A text in single quotes.
    pub fn text(&mut self, what: &str) -> Result<String> {
        match self.peek() {
            Token::SingleQuotedString(text) => {
                let text = text.clone();
                self.skip();
                Ok(text)
            }
            _ => Err(self.expected(what)),
        }
    }

    pub fn expr(&mut self) -> Result<ast::Expr> {
        self.read(Parser::parse_expr)
    }

    pub fn query(&mut self) -> Result<Box<ast::Query>> {
        let start = self.here();
        let query = self.read(Parser::parse_query)?;
        let mut relations = 0;
        let _ = ast::visit_relations(query.as_ref(), |_| {
            relations += 1;
            ControlFlow::<()>::Continue(())
        });
        match relations > RELATIONS_MAX {
            true => Err(Error::new(Code::Syntax, format!("more than {RELATIONS_MAX} tables in one query"))
                .at(start)
                .hint("make views of its parts")),
            false => Ok(query),
        }
    }

    pub fn data_type(&mut self) -> Result<ast::DataType> {
        self.read(Parser::parse_data_type)
    }

    fn read<T>(&mut self, parse: impl FnOnce(&mut Parser<'a>) -> Result<T, ParserError>) -> Result<T> {
        let start = self.here();
        parse(&mut self.parser).map_err(|error| self.explain(error, start))
    }

    /// The error that says what should stand here.
    pub fn expected(&self, what: &str) -> Error {
        Error::new(Code::Syntax, format!("expected {what}, found {}", shown(self.peek()))).at(self.here())
    }

    /// The parser's error: `Expected: an expression, found: FROM at Line: 3, Column: 5`.
    fn explain(&self, error: ParserError, start: Span) -> Error {
        let text = match error {
            ParserError::RecursionLimitExceeded => return too_deep(start),
            ParserError::ParserError(text) | ParserError::TokenizerError(text) => text,
        };
        let (text, place) = split_place(&text);
        let token = place.and_then(|place| self.tokens.iter().find(|token| Span::from(token.span).start == place));
        let span = match (token, place) {
            (Some(token), _) => token.span.into(),
            (None, Some(place)) => Span { start: place, end: LineColumn { column: place.column + 1, ..place } },
            (None, None) => end_of(self.tokens),
        };
        let message = match text.strip_prefix("Expected: ").and_then(|rest| rest.rsplit_once(", found: ")) {
            Some((expected, "EOF")) => format!("expected {}, found the end of the statement", of_us(expected)),
            Some((expected, found)) => {
                let found = token.map_or_else(|| format!("`{found}`"), |token| shown(&token.token));
                format!("expected {}, found {found}", of_us(expected))
            }
            None => small(text),
        };
        let error = Error::new(Code::Syntax, message).at(span);
        let at =
            token.and_then(|token| self.tokens.iter().position(|other| other.span == token.span)).unwrap_or(self.tokens.len());
        let near = self.tokens[at.saturating_sub(1)..].iter().take(2).find_map(|token| column_word(&token.token));
        match (token.map(|token| &token.token), near) {
            (Some(Token::DoubleQuotedString(_)), _) => error.hint("text stands in single quotes"),
            (_, Some(word)) => error.hint(format!("{word} is a word of SQL; as a name it stands in double quotes: \"{word}\"")),
            _ => error,
        }
    }
}

/// A word that people call columns by and that the parser takes for the start of a clause.
fn column_word(token: &Token) -> Option<&str> {
    use Keyword::*;
    match token {
        Token::Word(word) if word.quote_style.is_none() => matches!(
            word.keyword,
            OFFSET | LIMIT | END | FETCH | TABLE | VALUES | VIEW | SET | DEFAULT | INTERVAL | PARTITION | CLUSTER | SORT | TOP
        )
        .then_some(word.value.as_str()),
        _ => None,
    }
}

/// The parser's words for what it expects, where ours are plainer.
fn of_us(expected: &str) -> String {
    match expected {
        "identifier" => "a name".into(),
        "end of statement" => "the end of the statement".into(),
        "SELECT, VALUES, or a subquery in the query body" => "a query".into(),
        "literal string" | "string literal" => "a text in single quotes".into(),
        "joined table" => "a join".into(),
        other if other.starts_with("an ") || other.starts_with("a ") || other.contains(' ') => other.into(),
        sign => format!("`{sign}`"),
    }
}

/// The error of a text that cannot be cut into tokens: `Unterminated string literal at Line: 2, Column: 7`.
pub(super) fn untokenizable(error: sqlparser::tokenizer::TokenizerError) -> Error {
    let start = LineColumn { line: error.location.line, column: error.location.column };
    let end = LineColumn { column: start.column + 1, ..start };
    let error_of = |message: String| Error::new(Code::Syntax, message).at(Span { start, end });
    match error.message.as_str() {
        text if text.starts_with("Unterminated string") => error_of("a text in single quotes does not end".into())
            .hint("close it with `'`; a quote inside is written twice: `''`"),
        text if text.starts_with("Expected close delimiter") => error_of("a name in quotes does not end".into()),
        text if text.contains("multi-line comment") => error_of("a comment does not end".into()).hint("close it with `*/`"),
        text => error_of(small(text.trim())),
    }
}

/// What is open at a place: a bracket, and what stands in it so far.
#[derive(Default)]
struct Level {
    /// Operators since the last comma.
    chain: usize,
    /// Forms that are tried twice: the one that opened the bracket, and each `CASE` without its `END`.
    forms: usize,
    opened: Option<Span>,
}

/// Refuses what would make the parser slow or its tree too deep to walk, and brackets that do not match.
fn check_depth(tokens: &[TokenWithSpan]) -> Result<()> {
    let mut levels = vec![Level::default()];
    let (mut types, mut intervals) = (0_usize, 0_usize);
    let is_arrow = |token: &Token| matches!(token, Token::Word(word) if word.value.to_ascii_lowercase().starts_with("arrow_"));
    let names_types = tokens.iter().any(|token| is_arrow(&token.token));
    for (index, TokenWithSpan { token, span }) in tokens.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| &tokens[before].token);
        let after_type = || ["ARRAY", "STRUCT", "MAP"].iter().any(|word| before.is_some_and(|token| is_word(token, word)));
        intervals = if is_word(token, "INTERVAL") { intervals + 1 } else { 0 };
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                let forms = usize::from(before.is_some_and(is_form));
                levels.push(Level { chain: 0, forms, opened: Some((*span).into()) });
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                levels.pop();
                if levels.is_empty() {
                    return Err(Error::new(Code::Syntax, format!("`{token}` closes nothing")).at(*span));
                }
            }
            Token::Lt if after_type() => types += 1,
            Token::Gt => types = types.saturating_sub(1),
            Token::ShiftRight => types = types.saturating_sub(2),
            _ => {}
        }
        // The name of a type, as in arrow_cast(a, 'List(Utf8)'), is read to any depth.
        if names_types && text_of(token).is_some_and(|text| text.matches('(').count() > NESTING_MAX) {
            return Err(too_deep((*span).into()));
        }
        let depth = levels.len() + types;
        let level = levels.last_mut().expect("an empty stack of levels is an error above");
        match token {
            Token::Comma => level.chain = 0,
            Token::Word(word) if word.quote_style.is_none() => match word.keyword {
                Keyword::NoKeyword => {}
                Keyword::WHEN | Keyword::THEN | Keyword::ELSE => level.chain = 0,
                Keyword::CASE => level.forms += 1,
                Keyword::END => level.forms = level.forms.saturating_sub(1),
                _ => level.chain += 1,
            },
            Token::Word(_) | Token::Number(..) | Token::SingleQuotedString(_) | Token::Period => {}
            _ => level.chain += 1,
        }
        if level.chain > CHAIN_MAX {
            return Err(Error::new(Code::Syntax, format!("more than {CHAIN_MAX} operators in one chain"))
                .at(*span)
                .hint("use a list, as in `x IN (a, b, …)`, or several statements"));
        }
        let forms = levels.iter().map(|level| level.forms).sum::<usize>() + intervals.saturating_sub(1);
        if depth > NESTING_MAX || forms > FORMS_MAX {
            return Err(too_deep((*span).into()));
        }
    }
    match levels.pop().and_then(|level| level.opened) {
        Some(opened) => Err(Error::new(Code::Syntax, "a bracket is not closed").at(opened)),
        None => Ok(()),
    }
}

/// The content of a text, however it is quoted.
fn text_of(token: &Token) -> Option<&str> {
    match token {
        Token::SingleQuotedString(text)
        | Token::EscapedStringLiteral(text)
        | Token::NationalStringLiteral(text)
        | Token::UnicodeStringLiteral(text)
        | Token::SingleQuotedRawStringLiteral(text) => Some(text),
        Token::DollarQuotedString(text) => Some(&text.value),
        _ => None,
    }
}

/// Whether a bracket after this word opens a form with a syntax of its own.
fn is_form(token: &Token) -> bool {
    use Keyword::*;
    matches!(token, Token::Word(word) if word.quote_style.is_none() && matches!(word.keyword,
        CURRENT_CATALOG | CURRENT_USER | SESSION_USER | USER | CURRENT_TIMESTAMP | CURRENT_TIME | CURRENT_DATE | LOCALTIME
        | LOCALTIMESTAMP | CASE | CONVERT | TRY_CONVERT | CAST | TRY_CAST | SAFE_CAST | EXISTS | EXTRACT | CEIL | FLOOR | POSITION
        | SUBSTR | SUBSTRING | OVERLAY | TRIM | INTERVAL | ARRAY | NOT | MATCH | STRUCT | PRIOR | MAP | LAMBDA | CIRCLE | BOX | PATH
        | LINE | LSEG | POINT | POLYGON))
}

fn too_deep(span: Span) -> Error {
    Error::new(Code::Syntax, "nested too deep").at(span).hint("name an inner part in a `WITH` clause or a view")
}

pub(super) fn is_word(token: &Token, expected: &str) -> bool {
    matches!(token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(expected))
}

/// A token as it is shown in a sentence; a text may be long or secret and is not repeated, whatever its quotes are.
fn shown(token: &Token) -> String {
    match token {
        Token::EOF => "the end of the statement".into(),
        Token::Word(_) | Token::DoubleQuotedString(_) => format!("`{token}`"),
        token => match token.to_string() {
            text if text.contains(['\'', '"', '$']) => "a text in quotes".into(),
            text => format!("`{text}`"),
        },
    }
}

/// The character after the last of `tokens`.
fn end_of(tokens: &[TokenWithSpan]) -> Span {
    let end = tokens.last().map_or(LineColumn { line: 1, column: 1 }, |token| Span::from(token.span).end);
    Span { start: end, end: LineColumn { column: end.column + 1, ..end } }
}

/// Cuts ` at Line: 3, Column: 5` off.
fn split_place(text: &str) -> (&str, Option<LineColumn>) {
    let Some((message, place)) = text.rsplit_once(" at Line: ") else { return (text, None) };
    let place = place.split_once(", Column: ").and_then(|(line, column)| {
        let column = column.trim_end_matches(|c: char| !c.is_ascii_digit());
        Some(LineColumn { line: line.parse().ok()?, column: column.parse().ok()? })
    });
    (message, place.filter(|place| place.line > 0))
}

/// The text as a part of our sentences: with a small first letter, unless it begins with a word in capitals.
pub(super) fn small(text: &str) -> String {
    let mut letters = text.chars();
    match (letters.next(), letters.clone().next()) {
        (Some(first), second) if !second.is_some_and(char::is_uppercase) => first.to_lowercase().chain(letters).collect(),
        _ => text.into(),
    }
}
