//! One error for the whole product: a sentence with place, reason and a way out, and a code that says who must act.

use std::fmt;

use datafusion::error::DataFusionError;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who must act on an error. HTTP statuses, SQLSTATEs and exit codes are one `match` over this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The statement is wrong: rewrite it.
    Statement,
    /// A `WITH` option or a flag is wrong: correct its value.
    Option,
    /// Something named is not there: name another, or create it.
    Missing,
    /// Something is there already, or in use.
    Conflict,
    /// The server of the feed, or the way to it, fails.
    Feed,
    /// One event's data cannot be read.
    Payload,
    /// What a client of the server sent, whatever it is about: send another request.
    Request,
    /// A file, a directory or an address of this machine: whoever runs the program.
    Host,
    /// Our own mistake: report it.
    Bug,
}

macro_rules! codes {
    ($($number:literal $name:ident $kind:ident $title:literal;)*) => {
        /// The stable code of an error, printed as `SG-1001`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $(#[doc = $title] $name,)* }

        impl Code {
            pub const ALL: &[Code] = &[$(Code::$name,)*];
            pub fn number(self) -> u16 { match self { $(Code::$name => $number,)* } }
            pub fn kind(self) -> ErrorKind { match self { $(Code::$name => ErrorKind::$kind,)* } }
            pub fn title(self) -> &'static str { match self { $(Code::$name => $title,)* } }
        }
    };
}

codes! {
    1001 Syntax Statement "The text is not a statement this program knows";
    1002 Query Statement "The query does not fit the tables it names";
    1003 Type Statement "A column's type is not known";
    1004 UnknownColumn Missing "A column is not there";
    1005 UnknownTable Missing "A table or view is not there";
    1006 UnknownFunction Missing "A function is not there";
    1007 Exists Conflict "The name is taken";
    1008 InUse Conflict "Something still reads from it";
    1009 Recreate Conflict "A change that needs the table to be made anew";
    1101 Window Statement "A window is given in a way that has no meaning";
    1102 Endless Statement "The query has no answer on an endless stream";
    1103 NotYet Statement "The query asks for something that is not built yet";
    1104 EventTime Statement "The event time of a table is given in a way that has no meaning";
    1201 UnknownOption Option "An option is not known";
    1202 BadOption Option "An option's value is not understood";
    1203 MissingOption Option "A required option is missing";
    1204 DoubleOption Option "An option is given twice";
    1205 UnsetVariable Option "A variable that an option names is not set";
    1206 NotAllowed Option "An option asks for what is not allowed here";
    1301 Connect Feed "The server of a feed cannot be reached";
    1302 Status Feed "The server of a feed answers with an error status";
    1303 ContentType Feed "What the server sends is not an event stream";
    1304 Redirect Feed "A redirect cannot be followed";
    1305 Silent Feed "The server of a feed went silent";
    1306 File Feed "A file cannot be read";
    1307 GaveUp Feed "The attempts to reconnect are used up";
    1308 Closed Host "The reader of the output has left";
    1401 BadData Payload "An event's data does not fit the table";
    1501 Runtime Statement "A running query fails";
    1502 Slow Statement "A query reads slower than its feed sends";
    1601 Malformed Request "A request cannot be read";
    1602 NoRoute Missing "Nothing is at this address";
    1603 Method Request "The address does not know this method";
    1604 Unauthorized Request "A token is missing or not known";
    1605 Forbidden Request "The token does not allow this";
    1606 Origin Request "A request comes from a page or by a name that is not allowed";
    1607 TooLarge Request "A request is too large";
    1608 MediaType Request "The type of a request's body is not known";
    1609 NotAcceptable Request "No form of the answer is one that is asked for";
    1610 Stale Request "What a request builds on has changed";
    1611 TooMany Request "Too many requests or open streams";
    1612 Unavailable Request "The server cannot answer now";
    1613 NotFound Missing "Nothing has this name";
    1701 Data Host "The data directory cannot be used";
    1702 Address Host "An address cannot be listened on";
    1703 Settings Option "The settings are not understood";
    1704 Output Host "The output cannot be written";
    1901 Bug Bug "The program contradicts itself";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SG-{}", self.number())
    }
}

/// A place in a script: line and column, both counted from 1 in characters; `end` lies after the last character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    pub start: LineColumn,
    pub end: LineColumn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LineColumn {
    pub line: u64,
    pub column: u64,
}

impl From<sqlparser::tokenizer::Span> for Span {
    fn from(span: sqlparser::tokenizer::Span) -> Self {
        let place = |at: sqlparser::tokenizer::Location| LineColumn { line: at.line, column: at.column };
        Span { start: place(span.start), end: place(span.end) }
    }
}

/// What went wrong, and what to do about it. `Display` gives one line: `message; hint`.
#[derive(Debug, Clone, PartialEq)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone, PartialEq)]
struct Inner {
    code: Code,
    message: String,
    hint: Option<String>,
    span: Option<Span>,
}

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { code, message: message.into(), hint: None, span: None }))
    }

    /// A state that the code holds to be impossible.
    pub fn bug(message: impl Into<String>) -> Self {
        Error::new(Code::Bug, message)
    }

    /// The way out, as a sentence or a statement that would work.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The place in the script, unless a nearer one is known already. The parser marks what it has no place for by line 0.
    pub fn at(mut self, span: impl Into<Span>) -> Self {
        let span = span.into();
        if span.start.line > 0 {
            self.0.span.get_or_insert(span);
        }
        self
    }

    /// The same without its place: where that is in a text that nobody has written.
    pub fn unplaced(mut self) -> Self {
        self.0.span = None;
        self
    }

    /// The same with a place so many lines higher: where a text was put into another below them.
    pub fn moved_up(mut self, lines: u64) -> Self {
        if let Some(span) = &mut self.0.span {
            for place in [&mut span.start, &mut span.end] {
                place.line = place.line.saturating_sub(lines).max(1);
            }
        }
        self
    }

    pub fn code(&self) -> Code {
        self.0.code
    }

    pub fn kind(&self) -> ErrorKind {
        self.0.code.kind()
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn way_out(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    pub fn span(&self) -> Option<Span> {
        self.0.span
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match &self.0.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        DataFusionError::External(Box::new(error))
    }
}

/// An [`Error`] that travelled through DataFusion comes out as it went in; its own errors become ours by what they say.
impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        if let Some(own) = own(&error) {
            return own.clone();
        }
        let span = error.diagnostic().and_then(|diagnostic| diagnostic.span).map(|span| Span {
            start: LineColumn { line: span.start.line, column: span.start.column },
            end: LineColumn { line: span.end.line, column: span.end.column },
        });
        let root = error.find_root();
        let message = root.strip_backtrace();
        let code = match root {
            DataFusionError::SQL(..) => Code::Syntax,
            DataFusionError::SchemaError(..) => Code::UnknownColumn,
            DataFusionError::Plan(_) | DataFusionError::NotImplemented(_) | DataFusionError::Configuration(_) => Code::Query,
            DataFusionError::Internal(_) => Code::Bug,
            _ => Code::Runtime,
        };
        let error = Error::new(code, tidy(&message));
        match span {
            Some(span) => error.at(span),
            None => error,
        }
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        DataFusionError::from(error).into()
    }
}

/// The error of ours that DataFusion carries inside its own, if any.
fn own(error: &DataFusionError) -> Option<&Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(here) = cause {
        if let Some(own) = here.downcast_ref::<Error>() {
            return Some(own);
        }
        if let Some(DataFusionError::External(inner)) = here.downcast_ref::<DataFusionError>() {
            cause = Some(inner.as_ref());
            continue;
        }
        cause = here.source();
    }
    None
}

/// DataFusion's text without its prefixes, with a small first letter, as a part of our sentences.
fn tidy(message: &str) -> String {
    let mut text = message.trim();
    for prefix in [
        "Error during planning: ",
        "Schema error: ",
        "Execution error: ",
        "Arrow error: ",
        "This feature is not implemented: ",
        "SQL error: ",
        "External error: ",
        "Internal error: ",
        "Invalid argument error: ",
        "Compute error: ",
        "Parser error: ",
        "Cast error: ",
        "Divide by zero error",
    ] {
        if prefix == "Divide by zero error" && text.starts_with(prefix) {
            return "division by zero".into();
        }
        text = text.strip_prefix(prefix).unwrap_or(text);
    }
    text.trim_end_matches('.').to_string()
}

/// The known name that a wrong one was probably meant to be.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&wrong, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= 1 + name.len().max(wrong.len()) / 4 && *distance < name.len().max(wrong.len()))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_in_order() {
        let numbers: Vec<u16> = Code::ALL.iter().map(|code| code.number()).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    }

    #[test]
    fn what_has_no_place_is_given_none() {
        let [nowhere, there] = [0, 3].map(|line| LineColumn { line, column: line });
        let error = Error::new(Code::UnknownTable, "there is no table").at(Span { start: nowhere, end: nowhere });
        assert_eq!(error.span(), None);
        assert_eq!(error.at(Span { start: there, end: there }).span().map(|span| span.start), Some(there));
    }

    #[test]
    fn an_error_survives_the_way_through_datafusion() {
        let error = Error::new(Code::Window, "the width is no multiple of the slide").hint("write HOP(…)");
        let wrapped = DataFusionError::from(error.clone()).context("while planning").context("twice");
        assert_eq!(Error::from(wrapped), error);
    }

    #[test]
    fn a_near_name_is_found_and_a_far_one_is_not() {
        assert_eq!(nearest("event", ["endpoint", "events", "headers"]), Some("events"));
        assert_eq!(nearest("colour", ["endpoint", "events", "headers"]), None);
    }
}
