//! The column list of a `CREATE TABLE`: columns, where their values come from, the watermark and the primary key.

use sqlparser::tokenizer::Token;

use super::statement::{ColumnDef, Name, Origin, TypeDef, WatermarkDef};
use super::syntax::Cursor;
use crate::error::{Code, Error, Result, nearest};

/// Reads up to and past the closing `)`; the opening one is taken.
pub(super) fn read(cursor: &mut Cursor) -> Result<(Vec<ColumnDef>, Option<WatermarkDef>)> {
    let (mut columns, mut watermark, mut keys) = (Vec::new(), None, Vec::new());
    while cursor.peek() != &Token::RParen {
        let start = cursor.here();
        if cursor.takes("WATERMARK FOR") {
            let column = cursor.name("the column of the event time")?;
            let expr = if cursor.takes("AS") { Some(cursor.expr()?) } else { None };
            let span = cursor.since(start);
            if watermark.replace(WatermarkDef { column, expr, span }).is_some() {
                return Err(Error::new(Code::EventTime, "a table has one watermark").at(span).hint("keep one WATERMARK FOR"));
            }
        } else if cursor.takes("PRIMARY KEY") {
            keys.extend(key(cursor)?);
        } else if let Some(word) = ["CONSTRAINT", "UNIQUE", "FOREIGN KEY", "CHECK", "INDEX"].iter().find(|word| cursor.sees(word))
            && !matches!(cursor.peek_nth(1), Token::Word(word) if is_type(&word.value))
        {
            return Err(Error::new(Code::Syntax, format!("a feed cannot promise {word}"))
                .at(start)
                .hint("leave it out; NOT NULL and PRIMARY KEY are known"));
        } else {
            columns.push(column(cursor)?);
        }
        match cursor.peek() {
            Token::Comma => cursor.skip(),
            Token::RParen => {}
            _ => return Err(cursor.expected("`,` or `)` after a column")),
        }
    }
    cursor.skip();
    for name in &keys {
        match columns.iter_mut().find(|column| column.name.text == name.text) {
            Some(column) => column.primary_key = true,
            None => return Err(unknown(name, &columns)),
        }
    }
    for (index, column) in columns.iter().enumerate() {
        if columns[..index].iter().any(|other| other.name.text == column.name.text) {
            return Err(Error::new(Code::Exists, format!("column '{}' is declared twice", column.name))
                .at(column.name.span)
                .hint("names are the same in upper and lower case unless they stand in double quotes"));
        }
    }
    Ok((columns, watermark))
}

fn column(cursor: &mut Cursor) -> Result<ColumnDef> {
    let start = cursor.here();
    let name = cursor.name("a column")?;
    let data_type = if cursor.sees("AS") || cursor.sees("GENERATED") { None } else { Some(data_type(cursor, &name)?) };
    let mut column = ColumnDef { name, data_type, not_null: false, primary_key: false, origin: Origin::Payload, span: start };
    while !matches!(cursor.peek(), Token::Comma | Token::RParen | Token::EOF) {
        let at = cursor.here();
        if cursor.takes("NOT NULL") {
            column.not_null = true;
        } else if cursor.takes("NULL") {
            column.not_null = false;
        } else if cursor.takes("PRIMARY KEY") {
            column.primary_key = true;
            cursor.takes("NOT ENFORCED");
        } else if cursor.takes("METADATA") {
            let key = if cursor.takes("FROM") { cursor.text("a key such as 'event_type'")? } else { column.name.text.clone() };
            cursor.takes("VIRTUAL");
            set_origin(&mut column, Origin::Metadata { key, span: cursor.since(at) }, cursor)?;
        } else if cursor.takes("GENERATED ALWAYS AS") || cursor.takes("AS") {
            let expr = cursor.expr()?;
            let _ = cursor.takes("STORED") || cursor.takes("VIRTUAL");
            set_origin(&mut column, Origin::Generated(Box::new(expr)), cursor)?;
        } else {
            let known = ["NOT NULL", "PRIMARY KEY", "METADATA FROM", "GENERATED ALWAYS AS"];
            let error = cursor.expected("`,` or `)` after a column");
            return Err(match cursor.peek() {
                Token::Word(word) => match nearest(&word.value, known.iter().filter_map(|known| known.split(' ').next())) {
                    Some(near) => error
                        .hint(format!("did you mean {}?", known.iter().find(|known| known.starts_with(near)).unwrap_or(&near))),
                    None => error.hint(format!("after the type may stand {}", known.join(", "))),
                },
                _ => error,
            });
        }
    }
    column.span = cursor.since(start);
    Ok(column)
}

fn set_origin(column: &mut ColumnDef, origin: Origin, cursor: &Cursor) -> Result<()> {
    match std::mem::replace(&mut column.origin, origin) {
        Origin::Payload => Ok(()),
        _ => Err(Error::new(Code::Syntax, format!("column '{}' takes its values from two places", column.name))
            .at(cursor.since(column.name.span))
            .hint("keep METADATA FROM, or the expression")),
    }
}

fn data_type(cursor: &mut Cursor, name: &Name) -> Result<TypeDef> {
    let start = cursor.here();
    match cursor.peek() {
        Token::Word(_) if !cursor.sees("NOT NULL") && !cursor.sees("PRIMARY KEY") && !cursor.sees("METADATA FROM") => {
            let data_type = cursor.data_type()?;
            Ok(TypeDef { data_type, span: cursor.since(start) })
        }
        _ => Err(cursor
            .expected(&format!("the type of column '{name}'"))
            .hint("such as TEXT, BIGINT, DOUBLE, BOOLEAN, TIMESTAMP or JSON")),
    }
}

fn key(cursor: &mut Cursor) -> Result<Vec<Name>> {
    cursor.expect_sign(&Token::LParen)?;
    let mut names = vec![cursor.name("a column")?];
    while cursor.takes_sign(&Token::Comma) {
        names.push(cursor.name("a column")?);
    }
    cursor.expect_sign(&Token::RParen)?;
    cursor.takes("NOT ENFORCED");
    Ok(names)
}

/// Whether a word is a type's name, so that the word before it is a column's: `index BIGINT`.
fn is_type(word: &str) -> bool {
    super::types::NAMES.iter().any(|name| name.eq_ignore_ascii_case(word))
}

fn unknown(name: &Name, columns: &[ColumnDef]) -> Error {
    let names: Vec<&str> = columns.iter().map(|column| column.name.text.as_str()).collect();
    let error = Error::new(Code::UnknownColumn, format!("column '{name}' is not there")).at(name.span);
    match nearest(&name.text, names.iter().copied()) {
        Some(near) => error.hint(format!("did you mean '{near}'?")),
        None => error.hint(format!("the columns are {}", names.join(", "))),
    }
}
