//! Where settings come from: a tree of TOML, filled in and laid over by the environment and the flags, and the place of a mistake in it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

use super::{Flags, PREFIX, TOKEN};
use crate::error::{Code, Error, LineColumn, Result, Span};

/// Settings outside every table. Other variables with the prefix and no `__` are not ours: Kubernetes makes some for every service.
const TOP: &[&str] = &["bind", "checkpoint_interval", "data", "init", "listeners"];

/// The file as a tree, its line and column where it is no TOML.
pub(super) fn parse(text: &str, file: &Path) -> Result<Value> {
    toml::from_str::<Value>(text).map_err(|error| {
        let message = format!("'{}' is no TOML: {}", file.display(), error.message().replace('\n', ", "));
        match error.span() {
            Some(span) => here(Error::new(Code::Settings, message), text, span.start),
            None => Error::new(Code::Settings, message),
        }
    })
}

/// Fills in `${NAME}`, `${NAME:-default}` and `${file:/path}` in every text; `$${` stands for `${`. The error is a place and a reason.
pub(super) fn expand(value: &mut Value, environment: &impl Fn(&str) -> Option<String>) -> Result<(), (String, String)> {
    match value {
        Value::String(text) => *text = fill(text, environment).map_err(|reason| (String::new(), reason))?,
        Value::Array(list) => {
            for (index, item) in list.iter_mut().enumerate() {
                expand(item, environment).map_err(|(place, reason)| (format!("/{index}{place}"), reason))?;
            }
        }
        Value::Object(fields) => {
            for (name, item) in fields {
                expand(item, environment).map_err(|(place, reason)| (format!("/{name}{place}"), reason))?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn fill(text: &str, environment: &impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            filled.push_str(before);
            filled.push_str("${");
            rest = after;
            continue;
        }
        filled.push_str(before);
        let (name, after) = after.split_once('}').ok_or("has a '${' without its '}'")?;
        rest = after;
        if let Some(path) = name.strip_prefix("file:") {
            let content = std::fs::read_to_string(path)
                .map_err(|error| format!("names the file '{path}', which cannot be read: {error}"))?;
            filled.push_str(content.trim_end_matches(['\r', '\n']));
        } else {
            let (name, default) = name.split_once(":-").map_or((name, None), |(name, default)| (name, Some(default)));
            match (environment(name).filter(|value| !value.is_empty() || default.is_none()), default) {
                (Some(value), _) => filled.push_str(&value),
                (None, Some(default)) => filled.push_str(default),
                (None, None) => return Err(format!("needs the environment variable {name}, which is not set")),
            }
        }
    }
    filled.push_str(rest);
    Ok(filled)
}

/// One environment variable as a setting: a TOML value, or a text as it is.
pub(super) fn assign(settings: &mut Value, name: &str, text: &str) {
    if name == TOKEN {
        return set(settings, &["auth", "token"], text.into());
    }
    let Some(name) = name.strip_prefix(PREFIX).map(str::to_ascii_lowercase) else { return };
    let path: Vec<&str> = name.split("__").collect();
    if path.len() == 1 && !TOP.contains(&path[0]) {
        return;
    }
    let secret = path.last().is_some_and(|last| *last == "token");
    let value = if secret { None } else { toml::from_str::<Map<String, Value>>(&format!("value = {text}")).ok() };
    let value = value.filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    set(settings, &path, value.unwrap_or_else(|| text.into()));
}

pub(super) fn overlay(settings: &mut Value, flags: &Flags) {
    let text = |path: &PathBuf| Value::from(path.to_string_lossy());
    if let Some(bind) = &flags.bind {
        set(settings, &["bind"], bind.as_str().into());
    }
    if let Some(data) = &flags.data {
        set(settings, &["data"], text(data));
    }
    if let Some(size) = &flags.memory_max {
        set(settings, &["memory_max"], size.as_str().into());
    }
    if !flags.init.is_empty() {
        set(settings, &["init"], flags.init.iter().map(text).collect());
    }
    if let Some(file) = &flags.token_file {
        set(settings, &["auth", "token_file"], text(file));
    }
    if flags.insecure_no_auth {
        set(settings, &["auth", "insecure_no_auth"], true.into());
    }
    if let Some(format) = flags.log_format {
        set(settings, &["log", "format"], serde_json::to_value(format).unwrap_or_default());
    }
}

/// Puts a value at a path, over whatever is there.
fn set(settings: &mut Value, path: &[&str], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        *settings = value;
        return;
    };
    if !settings.is_object() {
        *settings = Value::Object(Map::new());
    }
    if let Value::Object(fields) = settings {
        set(fields.entry(first.to_string()).or_insert(Value::Null), rest, value);
    }
}

/// How a place in the settings is said: `http.hosts`.
pub(super) fn told(pointer: &str) -> String {
    format!("the setting '{}'", pointer.trim_start_matches('/').replace('/', "."))
}

/// The error with line and column of what the pointer leads to, where the file has it.
pub(super) fn placed(error: Error, text: &str, pointer: &str, file: &Path) -> Error {
    match DeTable::parse(text).ok().and_then(|table| offset(table.get_ref(), pointer)) {
        Some(offset) => {
            let place = place(text, offset);
            let message = format!("{} ({}, line {}, column {})", error.message(), file.display(), place.line, place.column);
            let moved = Error::new(error.code(), message).at(Span { start: place, end: place });
            error.way_out().into_iter().fold(moved, Error::hint)
        }
        None => error,
    }
}

/// Where in the text the last part of a pointer stands that the table has.
fn offset(table: &DeTable<'_>, pointer: &str) -> Option<usize> {
    let mut parts = pointer.split('/').skip(1);
    let (key, mut value) = table.iter().find_map(|(key, value)| {
        let first = pointer.split('/').nth(1)?;
        (key.get_ref() == first).then_some((key, value))
    })?;
    let mut found = key.span().start;
    parts.next();
    for part in parts {
        match value.get_ref() {
            DeValue::Table(table) => match table.iter().find(|(key, _)| key.get_ref() == part) {
                Some((key, inner)) => (found, value) = (key.span().start, inner),
                None => break,
            },
            DeValue::Array(list) => match part.parse().ok().and_then(|index: usize| list.get(index)) {
                Some(inner) => (found, value) = (inner.span().start, inner),
                None => break,
            },
            _ => break,
        }
    }
    Some(found)
}

fn here(error: Error, text: &str, offset: usize) -> Error {
    let place = place(text, offset);
    let message = format!("{} (line {}, column {})", error.message(), place.line, place.column);
    Error::new(error.code(), message).at(Span { start: place, end: place })
}

/// Line and column of a byte.
fn place(text: &str, offset: usize) -> LineColumn {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() as u64 + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() as u64 + 1;
    LineColumn { line, column }
}
