//! A posted table as its `CREATE TABLE`, and the way back: where in the body an error of the statement lies.

use std::ops::Range;

use serde_json::{Map, Value};

use super::alias::authenticated;
use super::post::{ConnectionTablePost, FieldPost, is_duration, known, plain_name};
use crate::error::{Code, Error, Result, nearest};
use crate::format::infer::identifier;
use crate::serve::body::escape;
use crate::serve::name;
use crate::sql::{self, Statement, Text};

/// What is wrong with a body, and where in it: a JSON pointer (RFC 6901).
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    pub pointer: String,
    pub error: Error,
}

/// A statement made from a body.
#[derive(Clone)]
pub struct Rendered {
    pub statement: Statement,
    places: Places,
}

/// Which part of the body each part of the statement's text comes from.
#[derive(Clone, Default)]
struct Places {
    text: String,
    /// The outer before the inner.
    ranges: Vec<(Range<usize>, String)>,
}

/// What stands before the columns if a look at the feed has found them: the statement is all that is kept of a table.
pub(super) const INFERRED: &str = " (\n    -- inferred from the feed\n    ";

/// What stands before the options if such a look has found none.
pub(super) const NOT_INFERRED: &str = " WITH (\n    -- schema not inferred";

/// Deepest nesting of a field's type that is given as an object.
const NESTING_MAX: usize = 16;

/// Words that start something else than a column in the column list of a `CREATE TABLE`.
const CLAUSES: [&str; 8] = ["check", "constraint", "foreign", "generated", "index", "primary", "unique", "watermark"];

impl ConnectionTablePost {
    /// The statement that makes this table; `or_replace` also in the place of one of its name. All faults that show without a look at
    /// what the statement means.
    pub fn statement(&self, or_replace: bool) -> Result<Rendered, Vec<Fault>> {
        let mut faults = Vec::new();
        self.check(&mut faults);
        let options = self.options(&mut faults);
        let unstructured = options.iter().any(|option| option.name == "json.unstructured" && option.value == "true");
        let mut writer = Places::default();
        writer.plain(if or_replace { "CREATE OR REPLACE TABLE " } else { "CREATE TABLE " });
        writer.place("/name", &identifier(&self.name));
        let fields: Vec<(usize, &FieldPost)> =
            self.schema.fields.iter().enumerate().filter(|(_, field)| !(unstructured && field.is_whole())).collect();
        let mut joint = if self.schema.inferred == Some(true) { INFERRED } else { " (\n    " };
        for (index, field) in &fields {
            writer.plain(std::mem::replace(&mut joint, ",\n    "));
            if let Err(more) = writer.field(&format!("/schema/fields/{index}"), field) {
                faults.extend(more);
            }
        }
        if let [first, rest @ ..] = self.schema.primary_keys.as_slice() {
            writer.plain(std::mem::replace(&mut joint, ",\n    "));
            writer.plain("PRIMARY KEY (");
            writer.place("/schema/primary_keys/0", &quoted(first));
            for (index, key) in rest.iter().enumerate() {
                writer.plain(", ");
                writer.place(&format!("/schema/primary_keys/{}", index + 1), &quoted(key));
            }
            writer.plain(")");
        }
        writer.plain(if joint == ",\n    " { "\n)" } else { "" });
        writer.plain(if self.schema.inferred == Some(false) { NOT_INFERRED } else { " WITH (" });
        for (index, option) in options.iter().enumerate() {
            writer.plain(if index == 0 { "\n    " } else { ",\n    " });
            let name = if is_word(&option.name.replace('.', "_")) { option.name.clone() } else { text(&option.name) };
            writer.place(&option.pointer, &format!("{name} = {}", text(&option.value)));
        }
        writer.plain("\n)");
        if faults.is_empty() { writer.parse() } else { Err(faults) }
    }

    fn check(&self, faults: &mut Vec<Fault>) {
        faults.extend(name::check("table", &self.name).err().map(|error| Fault::new("/name", error)));
        if self.connector != "sse" {
            let error = Error::new(Code::BadOption, format!("there is no connector '{}'", self.connector));
            faults.push(Fault::new("/connector", error.hint("give `sse`, the only one")));
        }
        if self.connection_profile_id.is_some() {
            let error = Error::new(Code::BadOption, "connector 'sse' has no connection profiles");
            faults.push(Fault::new("/connection_profile_id", error.hint("leave it out; headers stand in config.headers")));
        }
    }

    /// All options of the statement, in the order of the body.
    fn options(&self, faults: &mut Vec<Fault>) -> Vec<Setting> {
        let mut options = vec![Setting::new("connector", &self.connector, "/connector")];
        for (name, value) in &authenticated(&self.config.0, faults) {
            let pointer = format!("/config/{}", escape(name));
            match setting(name, value) {
                Ok(Some((name, value))) => options.push(Setting { name, value, pointer }),
                Ok(None) => {}
                Err(error) => faults.push(Fault { pointer, error }),
            }
        }
        if let Some(format) = &self.schema.format {
            match format_settings(format) {
                Ok(more) => options.extend(more),
                Err(fault) => faults.push(fault),
            }
        }
        if let Some(bad_data) = &self.schema.bad_data {
            match word(bad_data) {
                Some(word) => options.push(Setting::new("bad_data", word, "/schema/bad_data")),
                None => faults.push(Fault::new("/schema/bad_data", not_a_word("`dead_letter`, `drop` or `fail`"))),
            }
        }
        for (name, value, pointer) in [
            ("framing", &self.schema.framing, "/schema/framing"),
            ("event_time_field", &self.event_time_field, "/event_time_field"),
            ("watermark_delay", &self.watermark_delay, "/watermark_delay"),
            ("allowed_lateness", &self.allowed_lateness, "/allowed_lateness"),
            ("idle_timeout", &self.idle_timeout, "/idle_timeout"),
        ] {
            options.extend(value.as_ref().map(|value| Setting::new(name, value, pointer)));
        }
        if !options.iter().any(|option| option.name == "json.timestamp_format")
            && let Some(unix) = self.schema.fields.iter().find_map(|field| unix(field.data_type.as_ref()?))
        {
            options.push(Setting::new("json.timestamp_format", unix, "/schema/fields"));
        }
        options
    }
}

impl Rendered {
    /// Where in the body an error of the statement lies.
    pub fn fault(&self, error: Error) -> Fault {
        self.places.fault(error)
    }
}

impl Places {
    fn fault(&self, error: Error) -> Fault {
        Fault { pointer: self.pointer(&error), error }
    }

    fn pointer(&self, error: &Error) -> String {
        let place = error.span().map(|span| Text::new(&self.text).range(span).start);
        let inner = place.and_then(|at| self.ranges.iter().rfind(|(range, _)| range.contains(&at)));
        match inner {
            Some((_, pointer)) if pointer != "/name" => pointer.clone(),
            // At the table's name stand the errors of what is not there.
            _ => match (error.code(), error.message().strip_prefix("option '").and_then(|rest| rest.split('\'').next())) {
                (_, Some("primary_key")) | (Code::MissingOption, None) => "/schema/primary_keys".into(),
                (Code::MissingOption, Some(option)) => format!("/config/{option}"),
                (Code::Exists | Code::InUse, _) => "/name".into(),
                (Code::EventTime, _) => "/event_time_field".into(),
                (Code::Type | Code::UnknownColumn | Code::Query, _) => "/schema/fields".into(),
                _ => String::new(),
            },
        }
    }
}

impl Fault {
    pub fn new(pointer: &str, error: Error) -> Fault {
        Fault { pointer: pointer.into(), error }
    }
}

/// An option of the statement, and the part of the body that it comes from.
struct Setting {
    name: String,
    value: String,
    pointer: String,
}

impl Setting {
    fn new(name: &str, value: &str, pointer: &str) -> Setting {
        Setting { name: name.into(), value: value.into(), pointer: pointer.into() }
    }
}

/// A member of `config` as name and text of an option; `None` for null.
fn setting(name: &str, value: &Value) -> Result<Option<(String, String)>> {
    let millis = name.strip_suffix("_ms").or((name == "reconnectDelay").then_some(name)).map(|base| match base {
        "reconnect_interval" => "reconnect_delay",
        base => base,
    });
    let millis = millis.and_then(known).filter(|declared| is_duration(declared));
    let declared = known(name).or(millis);
    // An unknown name is refused by the reader of the options, which knows the nearest.
    let name = declared.map_or_else(|| name.to_string(), |declared| plain_name(declared).to_string());
    let text = match (name.as_str(), value) {
        (_, Value::Null) => return Ok(None),
        ("read_timeout", Value::Number(number)) if millis.is_some() && number.as_u64() == Some(0) => "off".into(),
        (_, Value::Number(number)) if millis.is_some() => format!("{number}ms"),
        (_, Value::String(text)) => text.clone(),
        (_, Value::Number(number)) => number.to_string(),
        (_, Value::Bool(bool)) => bool.to_string(),
        ("headers", Value::Object(_)) => value.to_string(),
        ("events" | "primary_key", Value::Array(names)) => joined(&name, names)?,
        (name, Value::Array(_) | Value::Object(_)) => {
            let error = Error::new(Code::BadOption, format!("option '{name}' is no text, number or truth value"));
            return Err(match declared {
                Some(declared) => error.hint(format!("give {}", declared.expects)),
                None => error,
            });
        }
    };
    Ok(Some((name, text)))
}

/// A list of names as text.
fn joined(option: &str, names: &[Value]) -> Result<String> {
    let name =
        |name: &Value| match name {
            Value::String(name) if !name.contains(',') => Ok(name.clone()),
            Value::String(name) => Err(Error::new(Code::BadOption, format!("option '{option}': '{name}' has a comma in it"))
                .hint("a comma separates names; such a one cannot be given")),
            _ => Err(Error::new(Code::BadOption, format!("option '{option}' holds a name that is no text"))
                .hint("give a list of texts")),
        };
    Ok(names.iter().map(name).collect::<Result<Vec<_>>>()?.join(","))
}

/// The word itself, or the one member of `{"word": {}}`.
pub(super) fn word(value: &Value) -> Option<&str> {
    match value {
        Value::String(word) => Some(word),
        Value::Object(object) if object.len() == 1 => object.keys().next().map(String::as_str),
        _ => None,
    }
}

fn not_a_word(words: &str) -> Error {
    Error::new(Code::BadOption, "this is neither a name nor an object of one name").hint(format!("give {words}"))
}

/// The settings that a format may have, in the spellings of other programs too. Those without an option of ours must be off.
const FORMAT_SETTINGS: [(&str, Option<&str>); 11] = [
    ("unstructured", Some("json.unstructured")),
    ("timestamp_format", Some("json.timestamp_format")),
    ("timestampFormat", Some("json.timestamp_format")),
    ("framing", Some("framing")),
    ("debezium", None),
    ("include_schema", None),
    ("includeSchema", None),
    ("confluent_schema_registry", None),
    ("confluentSchemaRegistry", None),
    ("schema_id", None),
    ("schemaId", None),
];

fn format_settings(format: &Value) -> Result<Vec<Setting>, Fault> {
    const POINTER: &str = "/schema/format";
    let known = "a name such as `json` or `raw_string`, or an object of one such name";
    let name = word(format).ok_or_else(|| Fault::new(POINTER, not_a_word(known)))?;
    let mut options = vec![Setting::new("format", name, POINTER)];
    let empty = Map::new();
    let settings = match format.get(name) {
        Some(Value::Object(settings)) => settings,
        Some(Value::Null) | None => &empty,
        Some(_) => {
            let error = Error::new(Code::BadOption, format!("the settings of format '{name}' are no object"));
            return Err(Fault::new(&format!("{POINTER}/{}", escape(name)), error.hint("give {}")));
        }
    };
    for (key, value) in settings {
        let pointer = format!("{POINTER}/{}/{}", escape(name), escape(key));
        let refuse = |message: String, hint: String| Fault {
            pointer: pointer.clone(),
            error: Error::new(Code::BadOption, message).hint(hint),
        };
        match (FORMAT_SETTINGS.iter().find(|(known, _)| known == key), value) {
            (Some(_), Value::Null) | (Some((_, None)), Value::Bool(false)) => {}
            (Some((_, Some(option))), Value::Bool(_) | Value::String(_)) => {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
                options.push(Setting { name: (*option).into(), value, pointer });
            }
            (Some((_, Some(_))), _) => {
                return Err(refuse(format!("the setting '{key}' is no text or truth value"), format!("leave '{key}' out")));
            }
            (Some((_, None)), _) => {
                let hint = match key.as_str() {
                    "debezium" => "give the format `debezium_json`".into(),
                    _ => format!("leave '{key}' out"),
                };
                return Err(refuse(format!("the setting '{key}' is not supported"), hint));
            }
            (None, _) => {
                let known = FORMAT_SETTINGS.iter().filter(|(_, option)| option.is_some()).map(|(name, _)| *name);
                let hint = match nearest(key, known.clone()) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => format!("known: {}", known.collect::<Vec<_>>().join(", ")),
                };
                return Err(refuse(format!("unknown setting '{key}' of format '{name}'"), hint));
            }
        }
    }
    Ok(options)
}

impl FieldPost {
    /// Whether it is the column that `json.unstructured` makes by itself.
    fn is_whole(&self) -> bool {
        let is_json = self.data_type.as_ref().and_then(Value::as_str).is_some_and(|name| name.eq_ignore_ascii_case("json"));
        self.name == "value" && is_json && self.metadata_key.is_none() && self.generated.is_none()
    }
}

impl Places {
    fn plain(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Text that comes from the part of the body at `pointer`.
    fn place(&mut self, pointer: &str, text: &str) {
        let start = self.text.len();
        self.text.push_str(text);
        self.ranges.push((start..self.text.len(), pointer.into()));
    }

    fn field(&mut self, pointer: &str, field: &FieldPost) -> Result<(), Vec<Fault>> {
        let mut faults = Vec::new();
        let fault = |member: &str, error| Fault { pointer: format!("{pointer}/{member}"), error };
        let start = self.text.len();
        let outer = self.ranges.len();
        self.ranges.push((start..start, pointer.into()));
        match column_name(field) {
            Ok(name) => self.place(&format!("{pointer}/name"), &name),
            Err(error) => faults.push(fault("sql_name", error)),
        }
        match field.data_type.as_ref().map(|data_type| type_of(data_type, 0)) {
            Some(Ok(data_type)) => {
                self.plain(" ");
                self.place(&format!("{pointer}/type"), &data_type);
            }
            Some(Err(error)) => faults.push(fault("type", error)),
            None if field.generated.is_some() => {}
            None => {
                let error = Error::new(Code::Type, format!("field '{}' has no type", field.name));
                faults.push(fault("type", error.hint("add \"type\": \"TEXT\", for example")));
            }
        }
        match (field.required, field.nullable) {
            (Some(required), Some(nullable)) if required == nullable => {
                let error =
                    Error::new(Code::BadOption, format!("field '{}' is required and nullable at once, or neither", field.name));
                faults.push(fault("nullable", error.hint("keep one of the two")));
            }
            (Some(true), _) | (_, Some(false)) => self.plain(" NOT NULL"),
            _ => {}
        }
        if let Some(key) = &field.metadata_key {
            self.plain(" ");
            self.place(&format!("{pointer}/metadata_key"), &format!("METADATA FROM {}", text(key)));
        }
        match field.generated.as_deref().map(sql::expression) {
            Some(Ok(expression)) => {
                self.plain(" GENERATED ALWAYS AS (");
                self.place(&format!("{pointer}/generated"), &expression.to_string());
                self.plain(")");
            }
            Some(Err(error)) => faults.push(fault("generated", error)),
            None => {}
        }
        self.ranges[outer].0 = start..self.text.len();
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn parse(self) -> Result<Rendered, Vec<Fault>> {
        let (mut statements, errors) = sql::parse(&self.text);
        match (statements.pop(), errors.is_empty()) {
            (Some(statement), true) if statements.is_empty() => Ok(Rendered { statement, places: self }),
            (_, true) => Err(vec![self.fault(Error::bug("a statement made from a body is not one statement"))]),
            (_, false) => Err(errors.into_iter().map(|error| self.fault(error)).collect()),
        }
    }
}

fn column_name(field: &FieldPost) -> Result<String> {
    match &field.sql_name {
        Some(folded) if *folded != field.name => match *folded == field.name.to_ascii_lowercase() && is_word(&field.name) {
            true => Ok(field.name.clone()),
            false => Err(Error::new(Code::Syntax, format!("the column of field '{}' cannot be named '{folded}'", field.name))
                .hint("leave sql_name out; a view gives columns other names: SELECT \"a\" AS b")),
        },
        _ => Ok(quoted(&field.name)),
    }
}

/// A column's name, in double quotes where it could be taken for something else.
fn quoted(name: &str) -> String {
    if CLAUSES.contains(&name) { format!("\"{name}\"") } else { identifier(name) }
}

/// A text in single quotes.
fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Whether it reads as a name without quotes.
fn is_word(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The type of SQL that a field's type says: text of SQL, the name of a primitive, or `{"type": {"primitive" | "struct" | "list": …}}`.
fn type_of(value: &Value, depth: usize) -> Result<String> {
    let unknown = || {
        Error::new(Code::Type, "this is no type")
            .hint("give a type of SQL such as BIGINT, or {\"type\": {\"primitive\": \"Int64\"}}")
    };
    if depth > NESTING_MAX {
        return Err(Error::new(Code::Type, format!("a type is nested more than {NESTING_MAX} deep")).hint("take it as JSON"));
    }
    let object = match value {
        Value::String(name) => match primitive(name) {
            Some((sql, _)) => return Ok(sql.into()),
            None => return Ok(sql::data_type(name)?.to_string()),
        },
        Value::Object(object) => object,
        _ => return Err(unknown()),
    };
    if let Some(inner) = object.get("type") {
        return type_of(inner, depth + 1);
    }
    if let Some(name) = object.get("primitive") {
        let name = name.as_str().ok_or_else(unknown)?;
        return primitive(name).map(|(sql, _)| sql.to_string()).ok_or_else(|| {
            let error = Error::new(Code::Type, format!("there is no primitive '{name}'"));
            match nearest(name, PRIMITIVES.iter().map(|(known, ..)| *known)) {
                Some(near) => error.hint(format!("did you mean '{near}'?")),
                None => error.hint("such as Int64, F64, Bool, String, DateTime or Json"),
            }
        });
    }
    if let Some(item) = object.get("list") {
        return Ok(format!("{}[]", type_of(nested(item), depth + 1)?));
    }
    let fields = object.get("struct").and_then(|inner| inner.get("fields")).and_then(Value::as_array).ok_or_else(unknown)?;
    let mut parts = Vec::with_capacity(fields.len());
    for field in fields {
        let name = ["name", "field_name", "fieldName"].iter().find_map(|key| field.get(key)).and_then(Value::as_str);
        parts.push(format!("{} {}", quoted(name.ok_or_else(unknown)?), type_of(nested(field), depth + 1)?));
    }
    match parts.as_slice() {
        [] => Err(unknown()),
        parts => Ok(format!("STRUCT<{}>", parts.join(", "))),
    }
}

/// The type within a field of a type.
fn nested(field: &Value) -> &Value {
    ["field_type", "fieldType", "data_type"].iter().find_map(|key| field.get(key)).unwrap_or(field)
}

/// Names of primitive types in the schemas of other programs, their types of SQL, and how their times are written.
const PRIMITIVES: [(&str, &str, Option<&str>); 16] = [
    ("Int32", "INT", None),
    ("Int64", "BIGINT", None),
    ("UInt32", "INT UNSIGNED", None),
    ("UInt64", "BIGINT UNSIGNED", None),
    ("F32", "REAL", None),
    ("F64", "DOUBLE", None),
    ("Bool", "BOOLEAN", None),
    ("String", "TEXT", None),
    ("Utf8", "TEXT", None),
    ("Bytes", "BYTEA", None),
    ("DateTime", "TIMESTAMP", None),
    ("Date32", "DATE", None),
    ("UnixMillis", "TIMESTAMP", Some("unix_millis")),
    ("UnixMicros", "TIMESTAMP", Some("unix_micros")),
    ("UnixNanos", "TIMESTAMP", Some("unix_nanos")),
    ("Json", "JSON", None),
];

fn primitive(name: &str) -> Option<(&'static str, Option<&'static str>)> {
    PRIMITIVES.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name)).map(|(_, sql, unix)| (*sql, *unix))
}

/// How a field's type says that its times are written.
fn unix(data_type: &Value) -> Option<&'static str> {
    let inner = data_type.get("type").unwrap_or(data_type);
    primitive(inner.get("primitive").unwrap_or(inner).as_str()?)?.1
}
