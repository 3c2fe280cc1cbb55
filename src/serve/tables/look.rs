//! A posted table without fields: a look at its feed finds them, or the whole event becomes one column.

use std::time::Duration;

use datafusion::execution::SessionState;
use serde_json::{Map, Value, json};

use super::post::{ConnectionTablePost, FieldPost, Inference, is_same};
use super::shown::NOT_INFERRED;
use super::statement::{Fault, Rendered, word};
use crate::error::{Code, Error, Result};
use crate::feed;
use crate::sql::StatementKind;
use crate::table::TableSpec;
use crate::table::peek::{ColumnLine, DELAY, Peek, Summary};

/// Events that a look takes: more say little new.
pub const EVENTS_MAX: u64 = 100;

/// How long a look takes at most: somebody waits for the answer.
pub const TIME_MAX: Duration = Duration::from_secs(5);

/// A body with its columns.
#[derive(Clone)]
pub struct Completed {
    pub post: ConnectionTablePost,
    /// The fields were found by a look at the feed.
    pub inferred: bool,
    /// Why there are none, where that is so.
    pub warnings: Vec<String>,
}

impl ConnectionTablePost {
    /// The body with the columns that a look at the feed finds, where it has none and its format needs some.
    pub async fn complete(&self, session: &SessionState) -> Result<Completed, Vec<Fault>> {
        if !self.needs_fields() {
            return Ok(Completed { post: self.clone(), inferred: false, warnings: Vec::new() });
        }
        let feed = self.feed(session)?;
        let inference = self.schema.inference.unwrap_or_default();
        let reason = match inference {
            Inference::None => "inference is off".to_string(),
            Inference::BestEffort | Inference::Required => {
                let mut peek = Peek::new(feed);
                match peek.read(EVENTS_MAX, TIME_MAX).await {
                    Ok(()) if !peek.summary.columns().is_empty() => return Ok(self.with_columns(&peek.summary)),
                    Ok(()) => "the data of its events are no JSON objects".to_string(),
                    Err(error) => error.to_string(),
                }
            }
        };
        if inference == Inference::Required {
            let error = Error::new(Code::Query, format!("{NOT_INFERRED}: {reason}"))
                .hint("give schema.fields, or inference best_effort for one column 'value JSON'");
            return Err(vec![Fault::new("/schema/fields", error)]);
        }
        let warning = format!("{NOT_INFERRED}: {reason}; the whole event is one column 'value JSON'");
        Ok(Completed { post: self.unstructured(), inferred: false, warnings: vec![warning] })
    }

    /// The feed of a body without fields, with all faults that show before they are known.
    pub fn feed(&self, session: &SessionState) -> Result<feed::FeedSpec, Vec<Fault>> {
        let mut probe = if self.needs_fields() { self.unstructured() } else { self.clone() };
        if self.needs_fields() {
            (probe.event_time_field, probe.schema.primary_keys) = (None, Vec::new());
        }
        let rendered = probe.statement(false)?;
        rendered.spec(session).map(|spec| spec.feed)
    }

    /// Whether its columns must be found: JSON without any.
    pub fn needs_fields(&self) -> bool {
        let format = self.schema.format.as_ref();
        let name = format.and_then(word).unwrap_or("json");
        let settings = format.and_then(|format| format.get(name));
        let unstructured = settings.and_then(|settings| settings.get("unstructured")).and_then(Value::as_bool);
        let by_option = ["json.unstructured", "format"].iter().any(|option| self.config.0.contains_key(*option));
        self.schema.fields.is_empty() && name.eq_ignore_ascii_case("json") && unstructured != Some(true) && !by_option
    }

    /// The body with what a look has found, as `peek` proposes it; what the body says itself stays.
    fn with_columns(&self, found: &Summary) -> Completed {
        let mut post = self.clone();
        let columns = &found.columns();
        let unix = columns.iter().find_map(|column| column.unix);
        let (name, mut settings) = post.json_settings();
        let given = ["timestamp_format", "timestampFormat"]
            .iter()
            .find_map(|key| settings.get(*key))
            .and_then(Value::as_str)
            .map(str::to_string);
        let given = given.as_deref();
        // Who says how times are written gets only those as times.
        let fits = |column: &ColumnLine| column.unix.is_none() || given.is_none() || column.unix == given;
        let field = |column: &ColumnLine| match fits(column) {
            true => FieldPost::typed(&column.name, &column.sql_type),
            false => FieldPost::typed(&column.name, "BIGINT"),
        };
        post.schema.fields = columns.iter().map(field).collect();
        if let (Some(unix), None) = (unix, given) {
            settings.insert("timestamp_format".into(), unix.into());
        }
        post.schema.format = Some(json!({ name: settings }));
        let mut config = std::mem::take(&mut post.config.0);
        let is_given = |config: &Map<String, Value>, name: &str| config.keys().any(|known| is_same(known, name));
        for (name, value) in found.options() {
            let is_of_schema = ["format", "json.timestamp_format"].contains(&name);
            if !is_of_schema && !is_given(&config, name) {
                config.insert(name.into(), value.into());
            }
        }
        if let Some(time) = columns.iter().find(|column| column.event_time && fits(column))
            && post.event_time_field.is_none()
            && !is_given(&config, "event_time_field")
        {
            post.event_time_field = Some(time.name.clone());
            if post.watermark_delay.is_none() && !is_given(&config, "watermark_delay") {
                post.watermark_delay = Some(DELAY.into());
            }
        }
        post.config.0 = config;
        post.schema.inferred = Some(true);
        Completed { post, inferred: true, warnings: Vec::new() }
    }

    /// The same with the whole event as one column.
    fn unstructured(&self) -> ConnectionTablePost {
        let mut post = self.clone();
        post.schema.inferred = Some(false);
        let (name, mut settings) = post.json_settings();
        settings.insert("unstructured".into(), true.into());
        post.schema.format = Some(json!({ name: settings }));
        post
    }

    fn json_settings(&self) -> (String, Map<String, Value>) {
        let format = self.schema.format.as_ref();
        let name = format.and_then(word).unwrap_or("json");
        let settings = format.and_then(|format| format.get(name)).and_then(Value::as_object);
        (name.to_string(), settings.cloned().unwrap_or_default())
    }
}

impl Rendered {
    /// What the statement means, with its errors at their places in the body.
    pub fn spec(&self, session: &SessionState) -> Result<TableSpec, Vec<Fault>> {
        let StatementKind::CreateTable(create) = &self.statement.kind else {
            return Err(vec![self.fault(Error::bug("a posted table is no CREATE TABLE"))]);
        };
        create
            .refuse_masks()
            .and_then(|()| TableSpec::new(create, session))
            .map_err(|errors| errors.into_iter().map(|error| self.fault(error)).collect())
    }
}
