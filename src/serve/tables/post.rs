//! The body that makes a table, as it is posted and as it is answered: `ConnectionTablePost`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{Object, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

use super::connectors::config_schema;
use super::statement::{INFERRED, NOT_INFERRED};
use crate::options::{Declared, TableOptions};
use crate::sql::{ColumnDef, CreateTable, Origin};
use crate::table::TableSpec;

/// A table to be made: the same as `CREATE TABLE name (fields…) WITH (connector, config…)`.
#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectionTablePost {
    /// Its name in SQL: a letter or `_`, then letters, digits, `_` and `-`, at most 63.
    #[schema(pattern = "^[A-Za-z_][A-Za-z0-9_-]{0,62}$", example = "live_updates")]
    pub name: String,
    /// `sse`, the only connector.
    #[schema(example = "sse")]
    pub connector: String,
    /// Accepted for clients that send it; the connector needs no profile, so it must be null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_profile_id: Option<String>,
    pub config: Config,
    #[serde(default, skip_serializing_if = "SchemaPost::is_empty")]
    pub schema: SchemaPost,
    /// The TIMESTAMP column that is the event time; without one it is the time of arrival, or, where the fields are found by a look at the
    /// feed, the time that every event has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_time_field: Option<String>,
    /// How far rows may be out of order, such as `5 seconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark_delay: Option<String>,
    /// For how long after its end a window takes late rows, such as `1 minute`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_lateness: Option<String>,
    /// After so much silence the watermark goes on with the clock, such as `10 seconds`; `off` never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<String>,
}

/// The options of a table by the names of `WITH`, and in JSON's types: durations as text with their unit or, under `NAME_ms`, as a number
/// of milliseconds; `headers` as text or object; `events` as text or list. What is known is [`TableOptions::DECLARED`].
#[derive(Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Config(pub Map<String, Value>);

/// Generated from the declared options.
impl PartialSchema for Config {
    fn schema() -> RefOr<Schema> {
        // Every JSON Schema is a schema of OpenAPI 3.1.
        RefOr::T(serde_json::from_value(config_schema()).unwrap_or_else(|_| Schema::from(Object::new())))
    }
}

impl ToSchema for Config {}

/// What the events look like.
#[derive(Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SchemaPost {
    /// How an event's data is read: a name such as `json`, or an object of that one name with its settings such as `{"json": {}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<TextOrObject>)]
    pub format: Option<Value>,
    /// Several records in one event: `none`, `newline` or `json_array`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub framing: Option<String>,
    /// The columns. Without them they are found by a look at the feed, as `inference` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldPost>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub primary_keys: Vec<String>,
    /// What becomes of an event that cannot be read: `dead_letter`, `drop` or `fail`, as text or as `{"drop": {}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<TextOrObject>)]
    pub bad_data: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inference: Option<Inference>,
    /// In an answer: the fields were found by a look at the feed, or such a look has found none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inferred: Option<bool>,
}

/// Stands for a name or an object in the description of the interface.
enum TextOrObject {}

impl PartialSchema for TextOrObject {
    fn schema() -> RefOr<Schema> {
        Object::with_type(SchemaType::from_iter([Type::String, Type::Object])).into()
    }
}

impl ToSchema for TextOrObject {}

/// What to do without fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Inference {
    /// Look at the feed; if that gives nothing, take the whole event as one column `value JSON`, with a warning.
    #[default]
    BestEffort,
    /// Look at the feed; if that gives nothing, make no table.
    Required,
    /// Do not look: one column `value JSON`.
    None,
}

/// A column.
#[derive(Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldPost {
    #[serde(alias = "field_name", alias = "fieldName")]
    pub name: String,
    /// A type of SQL such as `BIGINT`, or an object such as `{"type": {"primitive": "Int64"}}`. A generated column may go without.
    #[serde(
        default,
        rename = "type",
        alias = "data_type",
        alias = "field_type",
        alias = "fieldType",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<TextOrObject>)]
    pub data_type: Option<Value>,
    /// `true` is `NOT NULL`, as `nullable: false` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nullable: Option<bool>,
    /// What the event tells beside its data: `event_type`, `event_id`, `received_at`, `endpoint` or `data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata_key: Option<String>,
    /// The column's name in SQL where that is the field's name in small letters, as of one that a `CREATE TABLE` names without quotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql_name: Option<String>,
    /// An expression over the other columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated: Option<String>,
}

impl SchemaPost {
    fn is_empty(&self) -> bool {
        *self == SchemaPost::default()
    }
}

impl ConnectionTablePost {
    /// The body that would have made this table: the settings that were given, in their first spelling, and every column.
    pub fn of(create: &CreateTable, spec: &TableSpec) -> ConnectionTablePost {
        let mut post = ConnectionTablePost {
            name: create.name.text.clone(),
            connector: String::new(),
            connection_profile_id: None,
            config: Config::default(),
            schema: SchemaPost::default(),
            event_time_field: None,
            watermark_delay: None,
            allowed_lateness: None,
            idle_timeout: None,
        };
        let (mut format, mut settings, mut keys) = (None, Map::new(), Vec::new());
        for given in &create.options {
            let value = given.value.clone();
            let Some(declared) = known(&given.name) else { continue };
            match plain_name(declared) {
                "connector" => post.connector = value,
                "format" => format = Some(value),
                "framing" => post.schema.framing = Some(value),
                "bad_data" => post.schema.bad_data = Some(value.into()),
                "json.unstructured" => drop(settings.insert("unstructured".into(), value.eq_ignore_ascii_case("true").into())),
                "json.timestamp_format" => drop(settings.insert("timestamp_format".into(), value.into())),
                "event_time_field" => post.event_time_field = Some(value),
                "watermark_delay" => post.watermark_delay = Some(value),
                "allowed_lateness" => post.allowed_lateness = Some(value),
                "idle_timeout" => post.idle_timeout = Some(value),
                "primary_key" => keys = value.split(',').map(str::trim).map(str::to_string).collect(),
                "type" => {}
                name => {
                    let (name, value) = as_json(name, declared, value);
                    post.config.0.insert(name, value);
                }
            }
        }
        if let Some(watermark) = &create.watermark {
            post.event_time_field = Some(watermark.column.text.clone());
            post.watermark_delay = Some(humantime::format_duration(spec.delay).to_string());
        }
        let format = format.unwrap_or_else(|| "json".into());
        post.schema.format = Some(Value::Object(Map::from_iter([(format, Value::Object(settings))])));
        let declared = create.columns.iter().filter(|column| column.primary_key).map(|column| column.name.text.clone());
        post.schema.primary_keys = if keys.is_empty() { declared.collect() } else { keys };
        post.schema.inferred = match () {
            () if create.text.contains(INFERRED) => Some(true),
            () if create.text.contains(NOT_INFERRED) => Some(false),
            () => None,
        };
        // A column without a declaration is the one that an unstructured format makes.
        let field = |field: &arrow::datatypes::FieldRef| match create.columns.iter().find(|one| one.name.text == *field.name()) {
            Some(declared) => FieldPost::of(declared, field),
            None => FieldPost { nullable: Some(true), ..FieldPost::typed(field.name(), &type_text(field)) },
        };
        post.schema.fields = spec.schema.fields().iter().map(field).collect();
        post
    }
}

impl FieldPost {
    /// A column of a type of SQL.
    pub fn typed(name: &str, data_type: &str) -> FieldPost {
        FieldPost { name: name.into(), data_type: Some(data_type.into()), ..FieldPost::default() }
    }

    fn of(column: &ColumnDef, field: &arrow::datatypes::Field) -> FieldPost {
        let mut post = FieldPost::typed(&column.name.written, &type_text(field));
        post.sql_name = (column.name.text != column.name.written).then(|| column.name.text.clone());
        if let Some(declared) = &column.data_type {
            post.data_type = Some(declared.data_type.to_string().into());
        }
        post.nullable = Some(field.is_nullable() && !column.not_null);
        match &column.origin {
            Origin::Payload => {}
            Origin::Metadata { key, .. } => post.metadata_key = Some(key.clone()),
            Origin::Generated(expr) => post.generated = Some(bare(expr).to_string()),
        }
        post
    }
}

/// An expression without the parentheses around it.
fn bare(mut expr: &sqlparser::ast::Expr) -> &sqlparser::ast::Expr {
    while let sqlparser::ast::Expr::Nested(inner) = expr {
        expr = inner;
    }
    expr
}

fn type_text(field: &arrow::datatypes::Field) -> String {
    crate::format::infer::field_type(field)
}

/// The name of an option without the sign that Rust needs in front of one of them.
pub(super) fn plain_name(declared: &Declared) -> &'static str {
    declared.name.trim_start_matches("r#")
}

/// The option of this name or alias, in any case.
pub(super) fn known(name: &str) -> Option<&'static Declared> {
    let spelled = |known: &str| known.trim_start_matches("r#").eq_ignore_ascii_case(name);
    TableOptions::DECLARED.iter().find(|known| spelled(known.name) || known.aliases.iter().any(|alias| spelled(alias)))
}

/// Whether two members of `config` are spellings of one option.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    let option = |name: &str| known(name).or_else(|| known(name.strip_suffix("_ms")?)).map(|declared| declared.name);
    one == other || option(one).is_some_and(|found| option(other) == Some(found))
}

/// Whether an option's value is a time span, so that `NAME_ms` gives it in milliseconds.
pub(super) fn is_duration(declared: &Declared) -> bool {
    declared.expects.contains("duration")
}

/// An option's text as JSON under the name that goes with its type.
fn as_json(name: &str, declared: &Declared, text: String) -> (String, Value) {
    let value = text.trim();
    if is_duration(declared) {
        let millis = duration(value).filter(|span| span.subsec_nanos() % 1_000_000 == 0);
        if let Some(millis) = millis.and_then(|span| u64::try_from(span.as_millis()).ok()) {
            return (format!("{name}_ms"), millis.into());
        }
    }
    if name == "headers"
        && value.starts_with('{')
        && let Ok(headers) = serde_json::from_str::<Map<String, Value>>(value)
    {
        return (name.into(), headers.into());
    }
    let value = match declared.expects {
        "`true` or `false`" => value.parse::<bool>().map(Value::from).ok(),
        "a whole number" => value.parse::<u64>().map(Value::from).ok(),
        _ => None,
    };
    (name.into(), value.unwrap_or_else(|| Value::from(text)))
}

fn duration(text: &str) -> Option<std::time::Duration> {
    <std::time::Duration as crate::options::Value>::read(text).ok()
}
