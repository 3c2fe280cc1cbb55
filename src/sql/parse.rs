//! A script is cut at its `;` into statements; the statements of the house are read here, their queries and expressions by sqlparser.

use sqlparser::ast;
use sqlparser::tokenizer::{Span as Between, Token, TokenWithSpan, Tokenizer, Word};

use super::columns;
use super::dialect::Sql;
use super::foreign;
use super::statement::{CreateTable, CreateView, DropTarget, Name, Show, Statement, StatementKind, fold};
use super::syntax::{Cursor, is_word, untokenizable};
use super::text::Text;
use crate::error::{Code, Error, LineColumn, Result, Span, nearest};
use crate::options::GivenOption;

/// A definition that could not be read: its name, and where the mistake is.
#[derive(Debug, Clone, PartialEq)]
pub struct Unread {
    pub name: String,
    pub span: Option<Span>,
}

/// Reads a whole script. An error costs only its own statement: reading goes on after the next `;`.
pub fn parse(script: &str) -> (Vec<Statement>, Vec<Error>) {
    let (statements, errors, _) = parse_all(script);
    (statements, errors)
}

/// As [`parse`], with the names of what could not be read.
pub fn parse_all(script: &str) -> (Vec<Statement>, Vec<Error>, Vec<Unread>) {
    let (mut statements, mut errors, mut unread) = (Vec::new(), Vec::new(), Vec::new());
    let mut tokens = Vec::new();
    let cut = Tokenizer::new(&Sql, script).tokenize_with_location_into_buf(&mut tokens);
    prepare(&mut tokens);
    let mut parts: Vec<&[TokenWithSpan]> = tokens.split(|token| token.token == Token::SemiColon).collect();
    if let Err(error) = cut {
        // What stands before the broken token has no end.
        parts.pop();
        errors.push(untokenizable(error));
    }
    let text = Text::new(script);
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        let (first, last) = (Span::from(part[0].span), Span::from(part[part.len() - 1].span));
        let span = Span { start: first.start, end: last.end };
        match statement(part, text.of(span)) {
            Ok(kind) => statements.push(Statement { kind, span, text: text.of(span).into() }),
            Err(error) => {
                unread.extend(defined(part).map(|name| Unread { name, span: error.span() }));
                errors.push(error);
            }
        }
    }
    errors.sort_by_key(|error| error.span().map(|span| span.start));
    (statements, errors, unread)
}

/// The name of what a statement would make, however wrong the rest of it is.
fn defined(tokens: &[TokenWithSpan]) -> Option<String> {
    let mut rest = tokens.iter().skip_while(|token| is_word(&token.token, "EXPLAIN"));
    let mut next = || rest.next().map(|token| &token.token);
    if !is_word(next()?, "CREATE") {
        return None;
    }
    const BEFORE: [&str; 9] = ["OR", "REPLACE", "MATERIALIZED", "TEMPORARY", "TABLE", "VIEW", "SOURCE", "STREAM", "EXTERNAL"];
    const CONDITION: [&str; 3] = ["IF", "NOT", "EXISTS"];
    loop {
        let token = next()?;
        let Token::Word(word) = token else { return None };
        if !BEFORE.iter().chain(&CONDITION).any(|before| is_word(token, before)) {
            return Some(fold(&word.to_ident(Between::empty())));
        }
    }
}

/// Reads the text of a type that stands alone, such as `DECIMAL(18, 6)`.
pub fn data_type(text: &str) -> Result<ast::DataType> {
    alone(text, "a type such as TEXT", |cursor| cursor.data_type())
}

/// Reads the text of an expression that stands alone.
pub fn expression(text: &str) -> Result<ast::Expr> {
    alone(text, "an expression", |cursor| cursor.expr())
}

/// Leaves out what is between the words. A lone `?` is the operator: there are no parameters. A `>>` that closes two types is two signs:
/// the parser takes `[]` behind it for the inner type's.
fn prepare(tokens: &mut Vec<TokenWithSpan>) {
    let mut types = 0_usize;
    let mut after_type = false;
    let taken = std::mem::take(tokens);
    for mut token in taken.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_))) {
        match &token.token {
            Token::Placeholder(sign) if sign == "?" => token.token = Token::Question,
            Token::Lt if after_type => types += 1,
            Token::Gt => types = types.saturating_sub(1),
            Token::ShiftRight if types >= 2 => {
                types -= 2;
                let mut middle = token.span.start;
                middle.column += 1;
                tokens.push(TokenWithSpan { token: Token::Gt, span: Between::new(token.span.start, middle) });
                token = TokenWithSpan { token: Token::Gt, span: Between::new(middle, token.span.end) };
            }
            _ => {}
        }
        after_type = ["ARRAY", "STRUCT", "MAP"].iter().any(|word| is_word(&token.token, word));
        tokens.push(token);
    }
}

fn alone<T>(text: &str, what: &str, read: impl FnOnce(&mut Cursor) -> Result<T>) -> Result<T> {
    let mut tokens = Tokenizer::new(&Sql, text).tokenize_with_location().map_err(untokenizable)?;
    prepare(&mut tokens);
    if tokens.is_empty() {
        return Err(Error::new(Code::Syntax, format!("expected {what}, found nothing")));
    }
    let mut cursor = Cursor::new(&tokens)?;
    let found = read(&mut cursor)?;
    match cursor.at_end() {
        true => Ok(found),
        false => Err(cursor.expected(&format!("the end of {what}"))),
    }
}

/// The statements a hint names.
const STATEMENTS: [&str; 11] =
    ["CREATE", "SELECT", "WITH", "VALUES", "SUBSCRIBE", "SHOW", "DESCRIBE", "EXPLAIN", "DROP", "SET", "INSERT"];

fn statement(tokens: &[TokenWithSpan], text: &str) -> Result<StatementKind> {
    let (tokens, suffix) = split_emit_changes(tokens);
    if let (true, Some(suffix)) = (tokens.is_empty(), suffix) {
        return Err(Error::new(Code::Syntax, "`EMIT CHANGES` stands alone")
            .at(suffix)
            .hint("write it after a query: SELECT … EMIT CHANGES"));
    }
    if let Some(error) = foreign::phrase(tokens) {
        return Err(error);
    }
    let emit_changes = suffix.is_some();
    let mut cursor = Cursor::new(tokens)?;
    let kind = match cursor.takes("EXPLAIN") {
        true => explain(&mut cursor, emit_changes, text)?,
        false => plain(&mut cursor, emit_changes, text)?,
    };
    cursor.expect_end()?;
    match (suffix, &kind) {
        (None, _)
        | (
            _,
            StatementKind::Query(_) | StatementKind::Subscribe(_) | StatementKind::CreateView(_) | StatementKind::Explain { .. },
        ) => Ok(kind),
        (Some(suffix), _) => Err(Error::new(Code::Syntax, "`EMIT CHANGES` belongs to a query").at(suffix)),
    }
}

/// The suffix is cut off before parsing: the parser would take `EMIT` for an alias.
fn split_emit_changes(tokens: &[TokenWithSpan]) -> (&[TokenWithSpan], Option<Span>) {
    match tokens {
        [rest @ .., emit, changes] if is_word(&emit.token, "EMIT") && is_word(&changes.token, "CHANGES") => {
            (rest, Some(Span { start: Span::from(emit.span).start, end: Span::from(changes.span).end }))
        }
        _ => (tokens, None),
    }
}

fn explain(cursor: &mut Cursor, emit_changes: bool, text: &str) -> Result<StatementKind> {
    let analyze = cursor.takes("ANALYZE");
    cursor.takes("VERBOSE");
    let start = cursor.here();
    match plain(cursor, emit_changes, text)? {
        statement @ (StatementKind::Query(_) | StatementKind::Subscribe(_) | StatementKind::CreateView(_)) => {
            Ok(StatementKind::Explain { analyze, statement: Box::new(statement) })
        }
        _ => Err(Error::new(Code::Syntax, "only a query or a CREATE VIEW can be explained").at(start)),
    }
}

fn plain(cursor: &mut Cursor, emit_changes: bool, text: &str) -> Result<StatementKind> {
    if cursor.takes("CREATE") {
        return create(cursor, emit_changes, text);
    }
    if cursor.takes("DROP") {
        return drop(cursor);
    }
    if cursor.takes("SHOW") {
        return show(cursor);
    }
    if cursor.takes("DESCRIBE") || cursor.takes("DESC") {
        let _ = cursor.takes("TABLE") || cursor.takes("VIEW");
        return Ok(StatementKind::Describe(cursor.name("the name of a table or view")?));
    }
    if cursor.takes("SUBSCRIBE") {
        cursor.takes("TO");
        return subscribe(cursor);
    }
    if cursor.takes("INSERT") {
        let _ = cursor.takes("INTO") || cursor.takes("OVERWRITE");
        let table = cursor.name("the name of a table")?;
        while !cursor.at_end() {
            cursor.skip();
        }
        return Ok(StatementKind::Insert { table });
    }
    if cursor.takes("SET") {
        return set(cursor);
    }
    if begins_query(cursor) {
        let query = cursor.query()?;
        return Ok(if emit_changes { StatementKind::Subscribe(query) } else { StatementKind::Query(query) });
    }
    Err(unknown(cursor))
}

fn begins_query(cursor: &Cursor) -> bool {
    cursor.peek() == &Token::LParen || ["SELECT", "WITH", "VALUES", "FROM", "TABLE"].iter().any(|word| cursor.sees(word))
}

fn unknown(cursor: &Cursor) -> Error {
    let error = cursor.expected("a statement");
    let Token::Word(word) = cursor.peek() else { return error.hint(format!("known are {}", STATEMENTS.join(", "))) };
    let hint = match word.value.to_ascii_uppercase().as_str() {
        "UPDATE" | "DELETE" | "MERGE" | "TRUNCATE" => "event streams are read, never written; a view computes from them".into(),
        "ALTER" => "DROP it and CREATE it again, or use CREATE OR REPLACE VIEW".into(),
        "BEGIN" | "COMMIT" | "ROLLBACK" | "START" => "there are no transactions; leave it out".into(),
        other => match nearest(other, STATEMENTS) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("known are {}", STATEMENTS.join(", ")),
        },
    };
    error.hint(hint)
}

fn create(cursor: &mut Cursor, emit_changes: bool, text: &str) -> Result<StatementKind> {
    let or_replace = cursor.takes("OR REPLACE");
    let materialized = cursor.takes("MATERIALIZED");
    if cursor.takes("VIEW") {
        let view = create_view(cursor, or_replace, materialized, emit_changes, text)?;
        return Ok(StatementKind::CreateView(view));
    }
    if materialized {
        return Err(cursor.expected("`VIEW`"));
    }
    if cursor.takes("TABLE") {
        return Ok(StatementKind::CreateTable(Box::new(create_table(cursor, or_replace, text)?)));
    }
    let hint = match cursor.peek() {
        Token::Word(word) => match word.value.to_ascii_uppercase().as_str() {
            "SOURCE" | "STREAM" | "EXTERNAL" | "FOREIGN" => {
                Some("a feed is CREATE TABLE name (columns…) WITH (connector = 'sse', …)")
            }
            "SINK" => Some("results leave through a view: CREATE VIEW name AS SELECT …, then SUBSCRIBE name"),
            "INDEX" | "PROJECTION" | "CLUSTER" => Some("leave it out: a view keeps what it needs by itself"),
            "FUNCTION" | "AGGREGATE" | "PROCEDURE" | "TYPE" => {
                Some("functions and types come from DataFusion; a Rust program registers more in its session")
            }
            "SECRET" | "CONNECTION" | "CREDENTIAL" => {
                Some("a secret is named in an option, as in headers = 'Authorization: Bearer {{ TOKEN }}'")
            }
            "DATABASE" | "SCHEMA" | "CATALOG" => Some("leave it out: tables and views have plain names"),
            "TASK" | "PIPE" | "DYNAMIC" | "TRIGGER" => Some("a view is kept up to date by itself: CREATE VIEW name AS SELECT …"),
            "TEMP" | "TEMPORARY" | "LIVE" | "CONTINUOUS" | "UNLOGGED" => Some("leave that word out"),
            _ => None,
        },
        _ => None,
    };
    let error = cursor.expected("`TABLE` or `VIEW`");
    Err(match hint {
        Some(hint) => error.hint(hint),
        None => error,
    })
}

fn create_table(cursor: &mut Cursor, or_replace: bool, text: &str) -> Result<CreateTable> {
    let if_not_exists = cursor.takes("IF NOT EXISTS");
    let name = cursor.name("the name of the table")?;
    let (columns, watermark) = match cursor.takes_sign(&Token::LParen) {
        true => columns::read(cursor)?,
        false => (Vec::new(), None),
    };
    if cursor.sees("AS") {
        return Err(cursor
            .expected("`WITH (connector = …)`")
            .hint("a table made of a query is a view: CREATE VIEW name AS SELECT …"));
    }
    let options = match cursor.sees("WITH") {
        true => options(cursor)?,
        false if cursor.at_end() => Vec::new(),
        false => return Err(cursor.expected("`WITH (connector = …)`")),
    };
    Ok(CreateTable { name, or_replace, if_not_exists, columns, watermark, options, text: text.into() })
}

fn create_view(cursor: &mut Cursor, or_replace: bool, materialized: bool, emit_changes: bool, text: &str) -> Result<CreateView> {
    let if_not_exists = cursor.takes("IF NOT EXISTS");
    let name = cursor.name("the name of the view")?;
    if cursor.peek() == &Token::LParen {
        return Err(cursor.expected("`AS`").hint("name the columns in the query: SELECT expression AS name"));
    }
    let options = if cursor.sees("WITH") { options(cursor)? } else { Vec::new() };
    cursor.expect("AS")?;
    if !begins_query(cursor) {
        return Err(cursor.expected("a query"));
    }
    let query = cursor.query()?;
    Ok(CreateView { name, or_replace, if_not_exists, materialized, options, query, emit_changes, text: text.into() })
}

/// `WITH (name = value, …)`. Values keep their text: `INTERVAL '5 seconds'` is `5 seconds`.
fn options(cursor: &mut Cursor) -> Result<Vec<GivenOption>> {
    cursor.expect("WITH")?;
    cursor.expect_sign(&Token::LParen)?;
    let mut options = Vec::new();
    while cursor.peek() != &Token::RParen {
        let start = cursor.here();
        let name = option_name(cursor)?;
        if !cursor.takes_sign(&Token::Eq) {
            return Err(cursor.expected(&format!("`=` and the value of option '{name}'")));
        }
        let value = option_value(cursor, &name)?;
        options.push(GivenOption { name, value, span: Some(cursor.since(start)) });
        match cursor.peek() {
            Token::Comma => cursor.skip(),
            Token::RParen => {}
            _ => return Err(cursor.expected("`,` or `)` in the options")),
        }
    }
    cursor.skip();
    Ok(options)
}

fn option_name(cursor: &mut Cursor) -> Result<String> {
    let mut name = match cursor.peek() {
        Token::Word(Word { value, .. }) | Token::SingleQuotedString(value) => value.clone(),
        _ => return Err(cursor.expected("the name of an option")),
    };
    cursor.skip();
    while cursor.takes_sign(&Token::Period) {
        match cursor.peek() {
            Token::Word(word) => name += &format!(".{}", word.value),
            _ => return Err(cursor.expected("the rest of the option's name")),
        }
        cursor.skip();
    }
    Ok(name)
}

fn option_value(cursor: &mut Cursor, name: &str) -> Result<String> {
    cursor.takes("INTERVAL");
    let sign = if cursor.takes_sign(&Token::Minus) { "-" } else { "" };
    let value = match cursor.peek() {
        Token::SingleQuotedString(text) => text.clone(),
        Token::Number(number, _) => format!("{sign}{number}"),
        Token::Word(word) if word.quote_style == Some('"') => word.value.clone(),
        Token::Word(word) if is_word(cursor.peek(), "true") || is_word(cursor.peek(), "false") => word.value.to_ascii_lowercase(),
        Token::Word(word) => {
            // What stands in quotes of its own may be a secret.
            let value = if word.quote_style.is_some() { "…" } else { &word.value };
            let hint = format!("write it in single quotes: {name} = '{value}'");
            return Err(cursor.expected(&format!("the value of option '{name}'")).hint(hint));
        }
        _ => return Err(cursor.expected(&format!("the value of option '{name}'"))),
    };
    cursor.skip();
    // The unit of `INTERVAL '5' SECOND` stands behind the text.
    match cursor.peek() {
        Token::Word(unit) => {
            let value = format!("{value} {}", unit.value.to_ascii_lowercase());
            cursor.skip();
            Ok(value)
        }
        _ => Ok(value),
    }
}

fn drop(cursor: &mut Cursor) -> Result<StatementKind> {
    let what = match () {
        () if cursor.takes("TABLE") => DropTarget::Table,
        () if cursor.takes("VIEW") || cursor.takes("MATERIALIZED VIEW") => DropTarget::View,
        () => return Err(cursor.expected("`TABLE` or `VIEW`")),
    };
    let if_exists = cursor.takes("IF EXISTS");
    let mut names = Vec::new();
    loop {
        names.push(cursor.name("the name of a table or view")?);
        if !cursor.takes_sign(&Token::Comma) {
            break;
        }
    }
    let cascade = cursor.takes("CASCADE");
    if !cascade {
        cursor.takes("RESTRICT");
    }
    Ok(StatementKind::Drop { what, names, if_exists, cascade })
}

fn show(cursor: &mut Cursor) -> Result<StatementKind> {
    const NAME: &str = "the name of a table or view";
    let show = match () {
        () if cursor.takes("TABLES") => Show::Tables,
        () if cursor.takes("VIEWS") || cursor.takes("MATERIALIZED VIEWS") => Show::Views,
        () if cursor.takes("CREATE TABLE") => Show::Create(DropTarget::Table, cursor.name(NAME)?),
        () if cursor.takes("CREATE VIEW") || cursor.takes("CREATE MATERIALIZED VIEW") => {
            Show::Create(DropTarget::View, cursor.name(NAME)?)
        }
        () if cursor.takes("STATUS") => Show::Status(of_one(cursor, NAME)?),
        () if cursor.takes("GAPS") => Show::Gaps(of_one(cursor, NAME)?),
        () => return Err(cursor.expected("`TABLES`, `VIEWS`, `CREATE TABLE`, `CREATE VIEW`, `STATUS` or `GAPS`")),
    };
    Ok(StatementKind::Show(show))
}

/// `FOR name`, `OF name` or a bare name; or nothing, which means all.
fn of_one(cursor: &mut Cursor, what: &'static str) -> Result<Option<Name>> {
    let _ = cursor.takes("FOR") || cursor.takes("OF");
    if cursor.at_end() { Ok(None) } else { cursor.name(what).map(Some) }
}

/// `SUBSCRIBE v` is `SUBSCRIBE SELECT * FROM v`.
fn subscribe(cursor: &mut Cursor) -> Result<StatementKind> {
    if begins_query(cursor) {
        return Ok(StatementKind::Subscribe(cursor.query()?));
    }
    let name = cursor.name("the name of a view, or a query")?;
    let at = |token: Token| TokenWithSpan { token, span: between(name.span) };
    let quoted =
        Token::Word(Word { value: name.text.clone(), quote_style: Some('"'), keyword: sqlparser::keywords::Keyword::NoKeyword });
    let tokens = [at(Token::make_keyword("SELECT")), at(Token::Mul), at(Token::make_keyword("FROM")), at(quoted)];
    Ok(StatementKind::Subscribe(Cursor::new(&tokens)?.query()?))
}

fn set(cursor: &mut Cursor) -> Result<StatementKind> {
    let start = cursor.here();
    let name = match cursor.takes("TIME ZONE") {
        true => "timezone".to_string(),
        false => {
            let name = option_name(cursor)?;
            if !cursor.takes_sign(&Token::Eq) && !cursor.takes("TO") {
                return Err(cursor.expected("`=`"));
            }
            name
        }
    };
    let name = Name { text: name.to_ascii_lowercase(), quoted: false, span: cursor.since(start), written: name };
    let value = match cursor.peek() {
        Token::Word(word) => {
            let value = word.value.clone();
            cursor.skip();
            value
        }
        _ => option_value(cursor, &name.text)?,
    };
    Ok(StatementKind::Set { name, value })
}

fn between(span: Span) -> Between {
    let place = |at: LineColumn| sqlparser::tokenizer::Location { line: at.line, column: at.column };
    Between { start: place(span.start), end: place(span.end) }
}
