//! What a request says, read into a type: a JSON or YAML body, the query of an address; or the mistake, with its place.

use std::borrow::Cow;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, IntoDeserializer, Visitor, value};
use serde_path_to_error::Segment;
use url::form_urlencoded;

use super::activity::TooSlow;
use super::problem::{Problem, Result};
use crate::error::{Code, Error, LineColumn, Span, nearest};

/// The largest body: definitions and statements are far smaller. The router sets it with `DefaultBodyLimit`.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// A body in JSON or YAML. Text that is neither is a 400 with line and column; a value that does not fit is a 422 with its JSON pointer.
#[derive(Debug, Clone)]
pub struct Body<T>(pub T);

/// The query of an address. A parameter may be repeated where its field is a list. Mistakes are 400s.
#[derive(Debug, Clone)]
pub struct Query<T>(pub T);

/// The languages of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Json,
    Yaml,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        let language = language(request.headers())?;
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| match rejection {
            BytesRejection::FailedToBufferBody(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Problem::too_large(BODY_BYTES_MAX)
            }
            rejection if is_slow(&rejection) => Problem::slow(),
            _ => Problem::new(Code::Malformed, "the body broke off"),
        })?;
        read(&bytes, language).map(Body)
    }
}

/// Whether a body was given up because it did not come.
fn is_slow(rejection: &BytesRejection) -> bool {
    let first: &(dyn std::error::Error + 'static) = rejection;
    std::iter::successors(Some(first), |error| error.source()).any(|error| error.is::<TooSlow>())
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        query(parts.uri.query().unwrap_or_default()).map(Query)
    }
}

/// The language that `Content-Type` names: `application/json`, `application/yaml`, their old names and `+json`, `+yaml` types.
pub fn language(headers: &HeaderMap) -> Result<Language> {
    let given = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes())).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => Ok(Language::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" => Ok(Language::Yaml),
        _ if essence.starts_with("application/") && essence.ends_with("+json") => Ok(Language::Json),
        _ if essence.starts_with("application/") && essence.ends_with("+yaml") => Ok(Language::Yaml),
        _ => Err(Problem::unsupported_media(&essence)),
    }
}

/// The value that a text says.
pub fn read<T: DeserializeOwned>(text: &[u8], language: Language) -> Result<T> {
    let value = match language {
        Language::Json => serde_json::from_slice(text).map_err(|error| {
            let message = error.to_string();
            let reason = message.rsplit_once(" at line ").map_or(message.as_str(), |(reason, _)| reason);
            malformed("JSON", reason, error.line() as u64, error.column() as u64)
        })?,
        Language::Yaml => serde_saphyr::from_slice(text).map_err(|error| {
            let error = error.without_snippet();
            let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
            let message = error.to_string();
            let reason = message.split(" at line ").next().unwrap_or_default();
            malformed("YAML", reason.trim_start_matches("error: "), line, column)
        })?,
    };
    shape(value)
}

/// A value as a type: the second half of [`read`], for values that were put together.
pub fn shape<T: DeserializeOwned>(value: serde_json::Value) -> Result<T> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| misfit(pointer(error.path()), &error.inner().to_string(), "field").into_problem())
}

/// The parameters of an address. Numbers and booleans are read from their texts; a repeated parameter fills a list.
pub fn query<T: DeserializeOwned>(text: &str) -> Result<T> {
    let mut parameters: Vec<(Cow<'_, str>, ParameterValues<'_>)> = Vec::new();
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        match parameters.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.0.push(value),
            None => parameters.push((name, ParameterValues(vec![value]))),
        }
    }
    let map = MapDeserializer::<_, value::Error>::new(parameters.into_iter());
    serde_path_to_error::deserialize(map).map_err(|error| {
        let name = pointer(error.path()).trim_start_matches('/').to_string();
        let mut misfit = misfit(String::new(), &error.inner().to_string(), "query parameter");
        if misfit.code == Code::BadOption {
            misfit.message = format!("query parameter '{name}': {}", misfit.message);
        }
        misfit.into_problem().with_status(StatusCode::BAD_REQUEST)
    })
}

fn malformed(language: &str, reason: &str, line: u64, column: u64) -> Problem {
    let error = match line {
        0 => Error::new(Code::Malformed, format!("the body is no {language}: {reason}")),
        _ => {
            let at = LineColumn { line, column: column.max(1) };
            Error::new(Code::Malformed, format!("the body is no {language}: {reason} (line {line}, column {})", at.column))
                .at(Span { start: at, end: LineColumn { column: at.column + 1, ..at } })
        }
    };
    error.into()
}

/// A value that is not what its place asks for.
pub(super) struct Misfit {
    pub(super) code: Code,
    pub(super) pointer: String,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Misfit {
    pub(super) fn into_error(self) -> Error {
        let error = Error::new(self.code, self.message);
        match self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    fn into_problem(self) -> Problem {
        let pointer = self.pointer.clone();
        let problem = Problem::from(self.into_error());
        if pointer.is_empty() { problem } else { problem.at(pointer) }
    }
}

/// Serde's sentence in our words; `noun` is what a name is called here. The value itself is left out: it may be a secret.
pub(super) fn misfit(pointer: String, said: &str, noun: &str) -> Misfit {
    let names: Vec<&str> = said.split('`').skip(1).step_by(2).collect();
    let (first, known) = names.split_first().map_or(("", &[][..]), |(first, known)| (*first, known));
    let suggest = |what: &str| match nearest(first, known.iter().copied()) {
        Some(name) => Some(format!("did you mean '{name}'?")),
        None if known.is_empty() => None,
        None => Some(format!("known {what}: {}", known.join(", "))),
    };
    // Some deserializers name the place of the field, others of its parent.
    let own = |pointer: String| {
        let own = format!("/{}", escape(first));
        if pointer.ends_with(&own) { pointer } else { pointer + &own }
    };
    if said.starts_with("unknown field") {
        let hint = suggest(&format!("{noun}s"));
        Misfit { code: Code::UnknownOption, message: format!("unknown {noun} '{first}'"), hint, pointer: own(pointer) }
    } else if said.starts_with("missing field") {
        Misfit {
            code: Code::MissingOption,
            message: format!("the {noun} '{first}' is missing"),
            hint: None,
            pointer: own(pointer),
        }
    } else if said.starts_with("duplicate field") {
        Misfit {
            code: Code::DoubleOption,
            message: format!("the {noun} '{first}' is given twice"),
            hint: None,
            pointer: own(pointer),
        }
    } else if said.starts_with("unknown variant") {
        Misfit { code: Code::BadOption, message: format!("'{first}' is not known here"), hint: suggest("values"), pointer }
    } else if said.starts_with("data did not match any variant") {
        let message = "the value has none of the forms that this place takes".to_string();
        Misfit { code: Code::BadOption, message, hint: None, pointer }
    } else if let Some((found, expected)) = said.strip_prefix("invalid ").and_then(|said| said.rsplit_once(", expected ")) {
        let message = match (found.split_once(": "), found.strip_prefix("length ")) {
            (Some((_, found)), _) => format!("expected {}, found {}", in_json(expected), in_json(found)),
            (None, Some(length)) => format!("expected {}, found a list of {length}", in_json(expected)),
            (None, None) => format!("expected {}", in_json(expected)),
        };
        Misfit { code: Code::BadOption, message, hint: None, pointer }
    } else {
        Misfit { code: Code::BadOption, message: said.to_string(), hint: None, pointer }
    }
}

/// Serde's name of a type or of a value found, as the name of a JSON type.
fn in_json(name: &str) -> &str {
    let starts = |words: &[&str]| words.iter().any(|word| name.starts_with(word));
    match name {
        _ if starts(&["u8", "u16", "u32", "u64", "usize"]) => "a whole number from 0",
        _ if starts(&["i8", "i16", "i32", "i64", "isize"]) => "a whole number",
        _ if starts(&["f32", "f64"]) => "a number",
        _ if starts(&["struct", "a map", "map"]) => "an object",
        _ if starts(&["a sequence", "sequence", "a tuple", "tuple"]) => "a list",
        _ if starts(&["a boolean", "bool"]) => "true or false",
        _ if starts(&["string", "str", "a string", "a borrowed string"]) => "a text",
        _ if starts(&["integer", "floating"]) => "a number",
        _ if starts(&["unit", "null", "Option"]) => "null",
        _ => name,
    }
}

/// A place in a document as a JSON pointer (RFC 6901); empty for the whole of it.
pub(super) fn pointer(path: &serde_path_to_error::Path) -> String {
    let segments = path.iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(escape(key)),
        Segment::Enum { variant } => Some(escape(variant)),
        Segment::Unknown => None,
    });
    segments.map(|segment| format!("/{segment}")).collect()
}

/// A name as a part of a JSON pointer.
pub(super) fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// The texts of one query parameter, as whatever type is asked for.
struct ParameterValues<'a>(Vec<Cow<'a, str>>);

impl<'a> ParameterValues<'a> {
    /// The text of a parameter that stands once.
    fn one<E: serde::de::Error>(mut self) -> Result<Cow<'a, str>, E> {
        match self.0.len() {
            1 => Ok(self.0.remove(0)),
            times => Err(E::custom(format!("it is given {times} times; give it once"))),
        }
    }
}

impl<'de> IntoDeserializer<'de, value::Error> for ParameterValues<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! parsed {
    ($($method:ident $visit:ident $type:ty, $expects:literal;)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, value::Error> {
            let text = self.one()?;
            match text.parse::<$type>() {
                Ok(value) => visitor.$visit(value),
                Err(_) => Err(serde::de::Error::custom(format!("'{text}' is no {}", $expects))),
            }
        }
    )* };
}

impl<'de> Deserializer<'de> for ParameterValues<'de> {
    type Error = value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, value::Error> {
        visitor.visit_string(self.one()?.into_owned())
    }

    parsed! {
        deserialize_bool visit_bool bool, "'true' or 'false'";
        deserialize_u8 visit_u8 u8, "number from 0 to 255";
        deserialize_u16 visit_u16 u16, "number from 0 to 65535";
        deserialize_u32 visit_u32 u32, "number from 0";
        deserialize_u64 visit_u64 u64, "number from 0";
        deserialize_i32 visit_i32 i32, "whole number";
        deserialize_i64 visit_i64 i64, "whole number";
        deserialize_f64 visit_f64 f64, "number";
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, value::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, value::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, value::Error> {
        SeqDeserializer::new(self.0.into_iter().map(|text| ParameterValues(vec![text]))).deserialize_seq(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, value::Error> {
        let text: Cow<'de, str> = self.one()?;
        IntoDeserializer::<value::Error>::into_deserializer(text).deserialize_enum(name, variants, visitor)
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i128 u128 f32 char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body as Stream;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Post {
        name: String,
        config: Config,
        #[serde(default)]
        tags: Vec<String>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        endpoint: String,
        events: Option<String>,
        delay: Option<u64>,
        mode: Option<Mode>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        Final,
        Changes,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Ask {
        limit: Option<u32>,
        #[serde(default)]
        view: Vec<String>,
        mode: Option<Mode>,
        dry_run: Option<bool>,
    }

    fn refused<T: std::fmt::Debug>(result: Result<T>) -> serde_json::Value {
        let mut problem = serde_json::to_value(result.unwrap_err()).unwrap();
        let problem = problem.as_object_mut().unwrap();
        let first = problem["errors"][0].clone();
        json!([problem["status"], first["pointer"], first["message"], first["hint"]])
    }

    #[test]
    fn the_same_body_is_read_from_json_and_yaml() {
        let json = br#"{"name": "a", "config": {"endpoint": "http://x", "delay": 5, "mode": "final"}, "tags": ["b"]}"#;
        let yaml = b"name: a\nconfig:\n  endpoint: http://x\n  delay: 5\n  mode: final\ntags: [b]\n";
        let post: Post = read(json, Language::Json).unwrap();
        assert_eq!(post.config.delay, Some(5));
        assert_eq!(read::<Post>(yaml, Language::Yaml).unwrap(), post);
    }

    #[test]
    fn a_value_that_does_not_fit_is_told_by_its_pointer() {
        for (value, expect) in [
            (
                json!({"name": "a", "config": {"endpoint": "", "event": "x"}}),
                json!([422, "/config/event", "unknown field 'event'", "did you mean 'events'?"]),
            ),
            (json!({"name": "a", "config": {}}), json!([422, "/config/endpoint", "the field 'endpoint' is missing", null])),
            (json!({"config": {"endpoint": ""}}), json!([422, "/name", "the field 'name' is missing", null])),
            (
                json!({"name": "a", "config": {"endpoint": {"Bearer": "hush"}}}),
                json!([422, "/config/endpoint", "expected a text, found an object", null]),
            ),
            (
                json!({"name": "a", "config": {"endpoint": "", "delay": "hush"}}),
                json!([422, "/config/delay", "expected a whole number from 0, found a text", null]),
            ),
            (
                json!({"name": "a", "config": {"endpoint": "", "delay": -1}}),
                json!([422, "/config/delay", "expected a whole number from 0, found a number", null]),
            ),
            (
                json!({"name": "a", "config": {"endpoint": "", "mode": "chnges"}}),
                json!([422, "/config/mode", "'chnges' is not known here", "did you mean 'changes'?"]),
            ),
            (
                json!({"name": "a", "config": {"endpoint": ""}, "tags": ["b", 1]}),
                json!([422, "/tags/1", "expected a text, found a number", null]),
            ),
            (json!({"name": "a", "config": []}), json!([422, "/config", "expected an object, found a list of 0", null])),
            (json!(5), json!([422, null, "expected an object, found a number", null])),
            (json!({"a/b~": 1}), json!([422, "/a~1b~0", "unknown field 'a/b~'", "known fields: name, config, tags"])),
        ] {
            assert_eq!(refused(shape::<Post>(value.clone())), expect, "{value}");
        }
    }

    #[test]
    fn text_that_is_no_json_or_yaml_is_told_by_line_and_column() {
        for (text, language, line, column) in [
            ("{\n  \"name\": }", Language::Json, 2, 11),
            ("", Language::Json, 1, 1),
            ("{\"name\": \"a\"} x", Language::Json, 1, 15),
            ("name: [a\nconfig: {", Language::Yaml, 2, 7),
            ("a: 1\na: 2", Language::Yaml, 2, 1),
        ] {
            let problem = serde_json::to_value(read::<Post>(text.as_bytes(), language).unwrap_err()).unwrap();
            assert_eq!(problem["status"], 400, "{text}: {problem}");
            assert_eq!(problem["span"]["start"], json!({"line": line, "column": column}), "{text}: {problem}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(read::<Post>(deep.as_bytes(), Language::Json).unwrap_err().status(), StatusCode::BAD_REQUEST);
        assert_eq!(read::<Post>(deep.as_bytes(), Language::Yaml).unwrap_err().status(), StatusCode::BAD_REQUEST);
        assert_eq!(read::<Post>(b"\xff\xfe{", Language::Json).unwrap_err().status(), StatusCode::BAD_REQUEST);
        assert_eq!(read::<Post>(b"\xff\xfe{", Language::Yaml).unwrap_err().status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn a_mistake_in_the_text_does_not_show_the_text() {
        for (text, language) in [("{\"token\": \"hush\" x", Language::Json), ("token: hush\n  - [x", Language::Yaml)] {
            let problem = serde_json::to_string(&read::<Post>(text.as_bytes(), language).unwrap_err()).unwrap();
            assert!(!problem.contains("hush"), "{problem}");
        }
    }

    #[test]
    fn queries_are_read_by_the_types_of_their_fields() {
        let ask: Ask = query("limit=5&view=a&view=b%20c&mode=changes&dry_run=true").unwrap();
        let view = vec!["a".to_string(), "b c".to_string()];
        assert_eq!(ask, Ask { limit: Some(5), view, mode: Some(Mode::Changes), dry_run: Some(true) });
        assert_eq!(query::<Ask>("").unwrap().limit, None);
    }

    #[test]
    fn a_wrong_query_is_a_400_that_names_the_parameter() {
        for (text, expect) in [
            ("limt=5", json!([400, "/limt", "unknown query parameter 'limt'", "did you mean 'limit'?"])),
            ("limit=many", json!([400, null, "query parameter 'limit': 'many' is no number from 0", null])),
            ("limit=1&limit=2", json!([400, null, "query parameter 'limit': it is given 2 times; give it once", null])),
            ("mode=x", json!([400, null, "query parameter 'mode': 'x' is not known here", "known values: final, changes"])),
        ] {
            assert_eq!(refused(query::<Ask>(text)), expect, "{text}");
        }
    }

    fn post(content_type: Option<&str>, body: impl Into<Stream>) -> Request {
        let request = Request::post("/").extension(());
        let request = content_type.into_iter().fold(request, |request, given| request.header(CONTENT_TYPE, given));
        request.body(body.into()).unwrap()
    }

    #[tokio::test]
    async fn the_content_type_decides_the_language() {
        let json = r#"{"name": "a", "config": {"endpoint": ""}}"#;
        for given in ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json", "application/yaml"] {
            let body = Body::<Post>::from_request(post(Some(given), json), &()).await;
            assert_eq!(body.unwrap().0.name, "a", "{given}");
        }
        for given in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/jsonp")] {
            let problem = Body::<Post>::from_request(post(given, json), &()).await.unwrap_err();
            assert_eq!(problem.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{given:?}");
        }
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_a_413() {
        use axum::RequestExt;
        let layer = axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX);
        let mut large = post(Some("application/json"), vec![b' '; BODY_BYTES_MAX + 1]);
        layer.apply(&mut large);
        let problem = Body::<Post>::from_request(large.with_limited_body(), &()).await.unwrap_err();
        assert_eq!(problem.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
}
