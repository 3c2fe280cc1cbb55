//! `streamgauge peek`: the first events of a feed become a report on it and a proposal for its table.

use std::fmt;
use std::path::Path;

use serde_json::Value;

use super::args::{self, Exit};
use crate::error::{Code, Error, Result};
use crate::feed::FeedSpec;
use crate::options::{GivenOption, TableOptions};
use crate::table::peek::{At, FeedLocation, Peek, PeekReport};

/// A report in full: what was seen, then the statement.
impl fmt::Display for PeekReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", Seen(self), self.create_table)
    }
}

/// A report without its statement.
struct Seen<'a>(&'a PeekReport);

impl fmt::Display for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Seen(report) = self;
        writeln!(f, "{}", report.url)?;
        write!(f, "  {} events", report.events)?;
        match report.rate {
            Some(rate) => writeln!(f, ", {rate:.1} a second")?,
            None => writeln!(f, ", all at once")?,
        }
        writeln!(f, "  ids: {}", report.ids)?;
        match report.heartbeat_seconds {
            Some(gap) => writeln!(f, "  heartbeat: every {gap:.0} s")?,
            None => writeln!(f, "  heartbeat: none seen in this time")?,
        }
        for note in &report.notes {
            writeln!(f, "  note: {note}")?;
        }
        let widest = |texts: &mut dyn Iterator<Item = &str>| texts.map(|text| text.chars().count()).max().unwrap_or(0).min(40);
        writeln!(f, "\nevent types")?;
        let width = widest(&mut report.types.iter().map(|kind| kind.name.as_str()));
        for kind in &report.types {
            writeln!(f, "  {:width$}  {:>6}  {}", kind.name, kind.count, kind.sample)?;
        }
        if !report.columns.is_empty() {
            writeln!(f, "\ncolumns")?;
            let width = widest(&mut report.columns.iter().map(|column| column.name.as_str()));
            let types = widest(&mut report.columns.iter().map(|column| column.sql_type.as_str()));
            for column in &report.columns {
                let nulls = if column.nulls > 0 { format!(", {} null", column.nulls) } else { String::new() };
                let seen = format!("in {} of {}{nulls}", column.seen + column.nulls, column.of);
                writeln!(f, "  {:width$}  {:types$}  {seen}, as in {}", column.name, column.sql_type, column.example)?;
            }
        }
        Ok(())
    }
}

/// `streamgauge peek`: reads until it has enough, the time is up, or `interrupted` is ready.
pub async fn run(args: args::PeekArgs, interrupted: impl Future<Output = ()>) -> Result<Exit> {
    let (options, headers) = options(&args)?;
    let at = match (&options.endpoint, &options.path) {
        (Some(endpoint), _) => At::Url { url: endpoint.0.clone(), shown: endpoint.to_string() },
        (None, Some(path)) => At::File(path.clone()),
        (None, None) => return Err(Error::bug("an address was given and is gone")),
    };
    let place = FeedLocation { at, headers, name: args.name.clone() };
    let mut peek = Peek::new(FeedSpec::new(&options).map_err(first).map_err(as_typed)?);
    let interrupted = tokio::select! {
        read = peek.read(args.events.get(), args.timeout) => {
            read?;
            false
        }
        () = interrupted => true,
    };
    if interrupted && peek.summary.events() == 0 {
        return Ok(Exit::Interrupted);
    }
    let report = peek.summary.report(&place, peek.status().snapshot().heartbeat);
    match args.json {
        true => print(&(serde_json::to_string_pretty(&report).map_err(|error| Error::bug(error.to_string()))? + "\n"))?,
        false => {
            // The statement alone is standard output, so that it may go to a file as it is.
            if !args.sql {
                eprintln!("{}", Seen(&report));
            }
            print(&report.create_table)?;
        }
    }
    Ok(if interrupted { Exit::Interrupted } else { Exit::Done })
}

/// The options of the table, and its `headers` as they may be shown: each value that was typed becomes a variable of a telling name.
fn options(args: &args::PeekArgs) -> Result<(TableOptions, Option<String>)> {
    let mut headers = serde_json::Map::new();
    let mut shown = Vec::new();
    for header in &args.headers {
        let (name, value) = header
            .split_once(':')
            .ok_or_else(|| Error::new(Code::BadOption, "a header given with -H has no ':'").hint("write -H 'Name: value'"))?;
        let (name, value) = (name.trim(), value.trim());
        shown.push(match value.contains("{{") && !value.contains([',', '"']) {
            true => format!("{name}: {value}"),
            false => format!("{name}: {{{{ {} }}}}", name.to_ascii_uppercase().replace('-', "_")),
        });
        headers.insert(name.into(), value.into());
    }
    let mut given = match target(&args.url)? {
        Target::File(path) => vec![("connector", "file".to_string()), ("path", path)],
        Target::Url(url) => vec![("connector", "sse".to_string()), ("endpoint", url)],
    };
    if given[0].1 == "file" && !headers.is_empty() {
        return Err(Error::new(Code::BadOption, "a file is read without headers").hint("leave -H out"));
    }
    if !headers.is_empty() {
        given.push(("headers", Value::Object(headers).to_string()));
    }
    let given: Vec<GivenOption> =
        given.into_iter().map(|(name, value)| GivenOption { name: name.into(), value, span: None }).collect();
    let options = TableOptions::read(&given).map_err(first).map_err(as_typed)?;
    Ok((options, Some(shown.join(", ")).filter(|shown| !shown.is_empty())))
}

/// What the address on the command line means.
enum Target {
    File(String),
    Url(String),
}

/// A URL, a file, or an address without a scheme: `https` for a plain name of the web, `http` where a port or a number says that it is
/// another kind of server.
fn target(text: &str) -> Result<Target> {
    if text.contains("://") {
        return Ok(Target::Url(text.into()));
    }
    let path = Path::new(text);
    if path.is_file() {
        return Ok(Target::File(text.into()));
    }
    let host = text.split(['/', '?', '#']).next().unwrap_or_default();
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() && (!name.contains(':') || name.starts_with('[')) => (name, true),
        _ => (host, false),
    };
    let is_number = name.starts_with('[') || name.parse::<std::net::Ipv4Addr>().is_ok();
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    let like_file = extension.is_some_and(|extension| ["ndjson", "jsonl", "json", "sse"].iter().any(|known| extension == *known));
    match (port || is_number || name == "localhost", name.contains('.') && !name.starts_with('.')) {
        (true, _) => Ok(Target::Url(format!("http://{text}"))),
        (false, _) if like_file && (host == text || !name.contains('.')) || text.starts_with(['.', '/']) => {
            Err(Error::new(Code::File, format!("the file '{text}' is not there"))
                .hint("name an NDJSON file, a recorded .sse stream, or a URL"))
        }
        (false, true) => Ok(Target::Url(format!("https://{text}"))),
        (false, false) => Err(Error::new(Code::BadOption, format!("'{text}' is no URL, and no file that is there"))
            .hint("give a URL such as https://example.com/sse, an address such as 127.0.0.1:8090, or a file")),
    }
}

/// An error about an option of a table, in words of the command line, where nobody gave such an option.
fn as_typed(error: Error) -> Error {
    let message = error.message();
    let message = match message.strip_prefix("option 'endpoint': ").or_else(|| message.strip_prefix("option 'path': ")) {
        Some(rest) => rest.to_string(),
        None => message.replacen("option 'headers'", "-H", 1),
    };
    let told = Error::new(error.code(), message);
    match error.way_out() {
        Some(way_out) => told.hint(way_out),
        None => told,
    }
}

/// The first of several errors: on a command line there is one thing to correct at a time.
fn first(errors: Vec<Error>) -> Error {
    errors.into_iter().next().unwrap_or_else(|| Error::bug("refused without an error"))
}

fn print(text: &str) -> Result<()> {
    use std::io::{ErrorKind, Write};
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // The reader has seen enough.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::new(Code::Output, format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use url::Url;

    use super::super::sample::{self, Kind, Sample, Settings};
    use super::*;
    use crate::feed;
    use crate::table::peek::Summary;

    fn place(url: &str) -> FeedLocation {
        FeedLocation { at: At::Url { url: Url::parse(url).unwrap(), shown: url.into() }, headers: None, name: None }
    }

    /// The report on the first `count` events of a made-up feed at ten events a second.
    fn peeked(kind: Kind, count: u64, url: &str) -> PeekReport {
        let mut sample = Sample::new(Settings { count: Some(count), ..Settings::new(kind, 1) });
        let (mut event, mut summary) = (sample::Event::default(), Summary::default());
        while sample.next(&mut event) {
            let kind = if event.kind.is_empty() { "message" } else { event.kind };
            let data = std::str::from_utf8(&event.data).unwrap();
            summary.push(
                feed::Event { kind, data, id: &event.id, has_id: false, unseen: 0 },
                Duration::from_millis(100) * summary.events() as u32,
            );
        }
        summary.report(&place(url), Some(Duration::from_secs(15)))
    }

    #[test]
    fn metrics_are_reported_with_types_columns_and_a_table() {
        insta::assert_snapshot!(peeked(Kind::SystemMetrics, 40, "http://127.0.0.1:8090/feeds/metrics"));
    }

    #[test]
    fn what_is_no_row_is_left_out() {
        insta::assert_snapshot!(peeked(Kind::Transit, 60, "https://api.example/v3/vehicles?filter=a"));
    }

    #[test]
    fn an_answer_of_a_language_model_ends_with_its_terminator() {
        let report = peeked(Kind::Llm, 10, "https://api.example/");
        assert!(report.create_table.contains("terminator = '[DONE]'"), "{report}");
        assert!(report.create_table.starts_with("CREATE TABLE events ("), "{report}");
        assert_eq!(report.ids, "none: a reconnect starts where the server likes");
    }

    #[test]
    fn typed_header_values_never_show() {
        let args = |headers: &[&str]| args::PeekArgs {
            url: "http://h/".into(),
            headers: headers.iter().map(|header| (*header).into()).collect(),
            events: std::num::NonZeroU64::MIN,
            timeout: Duration::ZERO,
            name: None,
            sql: false,
            json: false,
        };
        let (_, shown) = options(&args(&["Authorization: Bearer s3cret", "X-Key: {{ KEY }}"])).unwrap();
        assert_eq!(shown.as_deref(), Some("Authorization: {{ AUTHORIZATION }}, X-Key: {{ KEY }}"));
        let error = options(&args(&["s3cret"])).unwrap_err();
        assert!(!error.to_string().contains("s3cret"));
    }
}
