//! The columns that name a row, and how an option names a column.

use arrow::datatypes::FieldRef;

use super::spec::{ColumnSource, Columns};
use crate::error::{Code, Error, Result, nearest};
use crate::options::TableOptions;
use crate::sql::CreateTable;

/// The column that an option names, and its own name: the one of exactly this name, else the one that differs only in upper and lower case.
pub(super) fn column_named<'a>(name: &'a str, fields: &'a [FieldRef]) -> (Option<usize>, &'a str) {
    let near = || {
        let mut all = fields.iter().enumerate().filter(|(_, field)| field.name().eq_ignore_ascii_case(name));
        all.next().filter(|_| all.next().is_none()).map(|(index, _)| index)
    };
    let found = fields.iter().position(|field| field.name() == name).or_else(near);
    (found, found.map_or(name, |index| fields[index].name()))
}

/// The columns that name a row, by `PRIMARY KEY` or `primary_key`.
pub(super) fn of(create: &CreateTable, options: &TableOptions, columns: &Columns) -> Result<Option<Vec<usize>>> {
    let declared: Vec<&str> =
        create.columns.iter().filter(|column| column.primary_key).map(|column| column.name.text.as_str()).collect();
    let given: Vec<&str> = options.primary_key.0.iter().map(|name| column_named(name, &columns.fields).1).collect();
    let names = if given.is_empty() { &declared } else { &given };
    let same = given.len() == declared.len() && given.iter().all(|name| declared.contains(name));
    if !same && !declared.is_empty() && !given.is_empty() {
        return Err(Error::new(
            Code::BadOption,
            format!("option 'primary_key': the key is ({}) here and ({}) by PRIMARY KEY", given.join(", "), declared.join(", ")),
        )
        .hint("keep one of the two"));
    }
    if options.table.is_some() && !options.format.is_change_feed() {
        return Err(Error::new(
            Code::BadOption,
            "option 'table': only the formats debezium_json and wal2json carry several tables",
        )
        .hint("leave it out, or keep some events by a WHERE in a view"));
    }
    if names.is_empty() && options.format.is_change_feed() {
        return Err(Error::new(
            Code::MissingOption,
            format!("table '{}' reads changes of rows, and no PRIMARY KEY says which row is meant", create.name),
        )
        .hint("name the key of the database's table: PRIMARY KEY (id); format = 'json' reads the change events themselves"));
    }
    let mut key = Vec::new();
    for name in names {
        let known = || columns.fields.iter().map(|field| field.name().as_str());
        let (Some(index), _) = column_named(name, &columns.fields) else {
            let error = Error::new(
                Code::UnknownColumn,
                format!("option 'primary_key': '{name}' is no column of table '{}'", create.name),
            );
            return Err(match nearest(name, known()) {
                Some(near) => error.hint(format!("did you mean '{near}'?")),
                None => error.hint("name one of the table's columns"),
            });
        };
        if matches!(columns.sources[index], ColumnSource::Generated(_)) {
            return Err(Error::new(Code::Query, format!("the key '{name}' is a generated column"))
                .hint("a key is read from the events: declare the column without GENERATED"));
        }
        if columns.fields[index].data_type().is_nested() {
            return Err(Error::new(Code::Type, format!("the key '{name}' is a list, struct or map"))
                .hint("name plain columns, or declare it as JSON to compare its text"));
        }
        if !key.contains(&index) {
            key.push(index);
        }
    }
    key.sort_unstable();
    Ok((!key.is_empty()).then_some(key))
}
