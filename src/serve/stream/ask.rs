//! What a client asks of a stream: the query of its address and `Last-Event-ID`.

use std::borrow::Cow;
use std::time::Duration;

use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{Object, Type};

use super::position::Start;
use super::shape::{Shape, word};
use super::spec::{HEARTBEAT_MAX, HEARTBEAT_MIN};
use crate::error::{Code, Error, Result, nearest};

/// The wishes of one client.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ask {
    /// The views that it names, where the address does not.
    pub views: Vec<String>,
    pub shape: Shape,
    pub snapshot: When,
    /// The id that it saw last; empty where it is new.
    pub last_event_id: String,
    /// The time between heartbeats; `None` for what the stream says.
    pub heartbeat: Option<Duration>,
    /// Heartbeats as events, for clients that do not see comments.
    pub heartbeat_event: bool,
    /// The stream ends after so many events.
    pub limit: Option<u64>,
    /// Overload is answered as an event stream: a browser's `EventSource` gives up for good on any other answer.
    pub soft: bool,
}

/// Whether a client gets the rows as they are before their changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum When {
    /// A client that is new, or whose id cannot be resumed.
    #[default]
    Auto,
    Always,
    Never,
}

/// The parameters of a stream beside `view`: name, values, meaning. `token` and `ticket` are read by who guards the server.
const PARAMETERS: [(&str, AllowedValues, &str); 12] = [
    ("format", AllowedValues::Words(&["changes", "batch", "rows", "drasi", "debezium"]), "How changes are put into events."),
    ("ops", AllowedValues::Text, "The kinds of changes to send: `added,updated,deleted`."),
    ("columns", AllowedValues::Text, "The columns to send, separated by commas."),
    (
        "where",
        AllowedValues::Text,
        "A condition over the columns, such as `total > 1000`: rows that come to meet it are added, others deleted.",
    ),
    (
        "event_field",
        AllowedValues::Words(&["none", "op", "view"]),
        "What the `event` line says; without one, pages see `message`.",
    ),
    (
        "snapshot",
        AllowedValues::Words(&["auto", "true", "false"]),
        "Whether the rows as they are come first. `auto`: for clients that cannot resume.",
    ),
    (
        "last_event_id",
        AllowedValues::Text,
        "The id after which to go on, or `earliest`, or `latest`. The header `Last-Event-ID` wins over it.",
    ),
    (
        "heartbeat",
        AllowedValues::Text,
        "The time between heartbeats (`15s`); `event` for heartbeats as events instead of comments; or both.",
    ),
    ("limit", AllowedValues::Number, "The stream ends after so many events."),
    (
        "soft",
        AllowedValues::YesNo,
        "Answers overload with 200 and an event `error`: a browser gives up for good on any other status.",
    ),
    ("token", AllowedValues::Text, "An access token, for clients that cannot send headers."),
    ("ticket", AllowedValues::Text, "A ticket of `POST /v1/tickets`."),
];

enum AllowedValues {
    Text,
    Words(&'static [&'static str]),
    Number,
    YesNo,
}

impl IntoParams for Ask {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let parameter = |(name, values, doc): (&str, AllowedValues, &str)| {
            let object = Object::builder();
            let object = match values {
                AllowedValues::Text => object.schema_type(Type::String),
                AllowedValues::Words(words) => object.schema_type(Type::String).enum_values(Some(words.iter().copied())),
                AllowedValues::Number => object.schema_type(Type::Integer).minimum(Some(1)),
                AllowedValues::YesNo => object.schema_type(Type::Boolean),
            };
            let parameter = Parameter::builder().name(name).parameter_in(ParameterIn::Query).description(Some(doc));
            parameter.schema(Some(object.build())).build()
        };
        PARAMETERS.map(parameter).into()
    }
}

impl Ask {
    /// Reads the query of an address; `shape` is what the stream itself says. A `Last-Event-ID` header wins over the parameter: a
    /// browser that comes back sends both, and the parameter is from its first visit.
    pub fn read(query: &str, last_event_id: Option<&str>, shape: Shape) -> Result<Ask, Vec<Error>> {
        let mut ask = Ask { shape, ..Ask::default() };
        let mut errors = Vec::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            errors.extend(ask.take(&name, value).err());
        }
        errors.extend(ask.shape.check().err());
        if let Some(id) = last_event_id.filter(|id| !id.is_empty()) {
            ask.last_event_id = id.to_string();
        }
        if errors.is_empty() { Ok(ask) } else { Err(errors) }
    }

    /// Where it wants to begin in a stream of `views`.
    pub fn start(&self, views: &[&str]) -> Start {
        Start::parse(&self.last_event_id, views)
    }

    fn take(&mut self, name: &str, value: Cow<str>) -> Result<()> {
        const YES_NO: [(&str, bool); 4] = [("true", true), ("false", false), ("1", true), ("0", false)];
        const WHEN: [(&str, When); 5] =
            [("auto", When::Auto), ("true", When::Always), ("false", When::Never), ("1", When::Always), ("0", When::Never)];
        match name {
            "view" => self.views.extend(value.split(',').filter(|view| !view.is_empty()).map(str::to_string)),
            "snapshot" => self.snapshot = word("snapshot", &value, &WHEN)?,
            "last_event_id" => self.last_event_id = value.into_owned(),
            "heartbeat" => self.heartbeat(&value)?,
            "limit" => {
                let limit = value.parse().ok().filter(|limit| *limit > 0);
                let error = || Error::new(Code::BadOption, format!("option 'limit' is no number of events: '{value}'"));
                self.limit = Some(limit.ok_or_else(|| error().hint("write limit=10, or leave it out"))?);
            }
            "soft" => self.soft = word("soft", &value, &YES_NO)?,
            "token" | "ticket" => {}
            "conflate" => {
                let error = Error::new(Code::NotYet, format!("option '{name}' is not built yet"));
                return Err(error.hint("read less often with /changes, or leave it out"));
            }
            _ if self.shape.read(name, &value)? => {}
            _ => {
                let error = Error::new(Code::UnknownOption, format!("unknown option '{name}'"));
                let known = || std::iter::once("view").chain(PARAMETERS.iter().map(|(name, ..)| *name));
                return Err(match nearest(name, known()) {
                    Some(near) => error.hint(format!("did you mean '{near}'?")),
                    None => error.hint(format!("the options are {}", known().collect::<Vec<_>>().join(", "))),
                });
            }
        }
        Ok(())
    }

    /// `15s`, `event`, or both with a comma.
    fn heartbeat(&mut self, value: &str) -> Result<()> {
        for part in value.split(',') {
            if part == "event" {
                self.heartbeat_event = true;
                continue;
            }
            let interval =
                humantime::parse_duration(part).ok().filter(|interval| (HEARTBEAT_MIN..=HEARTBEAT_MAX).contains(interval));
            let error = || Error::new(Code::BadOption, format!("option 'heartbeat' is no time between 100ms and 1h: '{part}'"));
            self.heartbeat = Some(interval.ok_or_else(|| error().hint("write heartbeat=15s, or heartbeat=event"))?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(query: &str) -> Result<Ask, Vec<String>> {
        Ask::read(query, None, Shape::default()).map_err(|errors| errors.iter().map(Error::to_string).collect())
    }

    #[test]
    fn a_query_says_what_a_client_wants() {
        let ask =
            read("view=a&view=b%20c,d&snapshot=1&heartbeat=15s,event&limit=3&soft=true&token=x&format=rows&last_event_id=7-4")
                .unwrap();
        let shape = Shape { format: super::super::Format::Rows, ..Shape::default() };
        let expected = Ask {
            views: vec!["a".into(), "b c".into(), "d".into()],
            shape,
            snapshot: When::Always,
            last_event_id: "7-4".into(),
            heartbeat: Some(Duration::from_secs(15)),
            heartbeat_event: true,
            limit: Some(3),
            soft: true,
        };
        assert_eq!(ask, expected);
    }

    #[test]
    fn the_header_wins_over_the_parameter() {
        let ask = |header| Ask::read("last_event_id=7-4", header, Shape::default()).unwrap().last_event_id;
        assert_eq!([ask(Some("7-9")), ask(Some("")), ask(None)], ["7-9", "7-4", "7-4"]);
    }

    #[test]
    fn everything_wrong_is_told_with_a_way_out() {
        let errors = read("snapshots=1&snapshot=yes&heartbeat=0s&limit=0&conflate=1s&format=batch&event_field=op").unwrap_err();
        let expected = [
            "unknown option 'snapshots'; did you mean 'snapshot'?",
            "option 'snapshot' does not know 'yes'; it may be auto, true, false, 1, 0",
            "option 'heartbeat' is no time between 100ms and 1h: '0s'; write heartbeat=15s, or heartbeat=event",
            "option 'limit' is no number of events: '0'; write limit=10, or leave it out",
            "option 'conflate' is not built yet; read less often with /changes, or leave it out",
            "option 'event_field' is 'op', but an event of this format holds changes of several kinds; choose format=changes, or event_field=view",
        ];
        assert_eq!(errors, expected);
    }

    proptest! {
        #[test]
        fn no_query_and_no_id_brings_the_program_down(query in "[a-z_]{0,12}=[^#]{0,20}(&[a-z_]{0,12}=[^#]{0,20}){0,3}", id in ".*") {
            if let Ok(ask) = Ask::read(&query, Some(&id), Shape::default()) {
                let _ = (ask.start(&["a"]), ask.start(&["a", "b"]));
            }
        }
    }
}
