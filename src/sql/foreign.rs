//! Words of other programs, and what it is called here: one table for the hints of all errors.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::syntax::is_word;
use crate::error::{Code, Error, Span};

/// Functions by what to write instead: an expression over columns `ts TIMESTAMP`, `k TEXT`, `v DOUBLE`, `n BIGINT`, `b BOOLEAN`,
/// `d JSON` and `tags TEXT[]`, so that a test can see that it is known.
const FUNCTIONS: &[(&str, &[&str])] = &[
    ("date_bin(INTERVAL '1 minute', ts)", &["time_bucket", "tostartofinterval", "timestamp_bucket", "date_bucket", "time_slice"]),
    (
        "date_trunc('minute', ts)",
        &[
            "tostartofsecond",
            "tostartofminute",
            "tostartoffiveminutes",
            "tostartofhour",
            "tostartofday",
            "tostartofweek",
            "tostartofmonth",
            "tostartofquarter",
            "tostartofyear",
            "tomonday",
            "timestamp_trunc",
            "datetime_trunc",
            "time_trunc",
        ],
    ),
    (
        "to_char(ts, '%Y-%m-%d %H:%M:%S')",
        &[
            "strftime",
            "formatdatetime",
            "format_timestamp",
            "format_datetime",
            "format_date",
            "format_time",
            "formattimestamp",
            "timestamptostring",
            "time_format",
            "dateformat",
        ],
    ),
    (
        "to_timestamp(k, '%Y-%m-%d %H:%M:%S')",
        &[
            "strptime",
            "parse_timestamp",
            "parse_datetime",
            "parsetimestamp",
            "parsedatetime",
            "parsedatetimebesteffort",
            "str_to_date",
            "stringtotimestamp",
            "to_timestamp_ltz",
            "to_timestamp_ntz",
            "to_timestamp_tz",
            "todatetime",
            "todatetime64",
        ],
    ),
    ("to_timestamp_seconds(n)", &["timestamp_seconds", "fromunixtimestamp", "from_unixtimestamp", "make_timestamp"]),
    ("to_timestamp_millis(n)", &["timestamp_millis", "fromunixtimestamp64milli", "epoch_ms", "make_timestamp_ms"]),
    ("to_unixtime(ts)", &["unix_timestamp", "tounixtimestamp", "unix_seconds", "unix_millis", "epoch", "to_epoch", "unixepoch"]),
    ("date_part('hour', ts)", &["year", "month", "day", "hour", "minute", "second", "week", "quarter", "dayofweek", "dayofyear"]),
    ("date_part('hour', ts)", &["toyear", "tomonth", "todayofmonth", "todayofweek", "tohour", "tominute", "tosecond", "weekday"]),
    (
        "ts AT TIME ZONE 'Europe/Berlin'",
        &["convert_tz", "convert_timezone", "totimezone", "from_utc_timestamp", "to_utc_timestamp"],
    ),
    ("ts + INTERVAL '1 day'", &["date_add", "dateadd", "adddate", "timestampadd", "timestamp_add", "datetime_add", "adddays"]),
    ("ts - INTERVAL '1 day'", &["date_sub", "datesub", "subdate", "timestamp_sub", "datetime_sub", "subtractdays"]),
    (
        "now()",
        &[
            "localtimestamp",
            "localtime",
            "proctime",
            "now64",
            "getdate",
            "getutcdate",
            "sysdate",
            "sysdatetime",
            "systimestamp",
            "current_datetime",
            "clock_timestamp",
            "statement_timestamp",
            "transaction_timestamp",
            "utc_timestamp",
            "utcnow",
        ],
    ),
    ("regexp_match(k, '[0-9]+')[1]", &["regexp_extract", "regexp_substr", "regexp_extract_all", "regexpextract"]),
    ("regexp_like(k, '^a')", &["regexp", "regexp_matches", "regexp_contains", "regexp_full_match", "rlike"]),
    ("count(*) FILTER (WHERE v > 1)", &["count_if", "countif"]),
    ("sum(v) FILTER (WHERE b)", &["sum_if", "sumif"]),
    ("avg(v) FILTER (WHERE b)", &["avg_if", "avgif"]),
    ("approx_distinct(k)", &["approx_count_distinct", "uniq", "uniqcombined", "uniqcombined64", "uniqhll12", "hll", "ndv"]),
    ("count(DISTINCT k)", &["uniqexact", "count_distinct", "countdistinct", "exact_count_distinct"]),
    ("first_value(k ORDER BY ts)", &["any", "anylast", "arbitrary", "earliest_by_offset", "first"]),
    ("last_value(k ORDER BY ts)", &["latest_by_offset", "last"]),
    ("first_value(k ORDER BY v DESC)", &["argmax", "arg_max", "max_by", "maxby"]),
    ("first_value(k ORDER BY v)", &["argmin", "arg_min", "min_by", "minby"]),
    (
        "approx_percentile_cont(v, 0.95)",
        &[
            "quantile",
            "quantiles",
            "quantileexact",
            "quantiletdigest",
            "percentile",
            "percentile_disc",
            "approx_quantile",
            "approx_quantiles",
            "approx_percentile",
            "percentile_approx",
            "percentiles",
            "p95",
            "p99",
        ],
    ),
    ("var(v)", &["variance", "varsamp"]),
    ("stddev(v)", &["std", "stddevsamp", "stdev"]),
    ("bool_and(b)", &["every", "logical_and"]),
    ("bool_or(b)", &["logical_or"]),
    ("string_agg(k, ', ')", &["group_concat", "listagg", "wm_concat"]),
    ("array_agg(k)", &["collect_list", "grouparray", "array_accum", "list", "array_collect"]),
    ("array_agg(DISTINCT k)", &["collect_set", "groupuniqarray", "array_unique_agg"]),
    ("CASE WHEN b THEN 1 ELSE 0 END", &["if", "iff", "iif", "multiif", "switch"]),
    ("coalesce(v, 0)", &["zeroifnull", "if_null", "value"]),
    ("nullif(v, 0)", &["nullifzero"]),
    ("v / nullif(v, 0)", &["safe_divide", "try_divide", "div0", "divide"]),
    ("n % 2", &["mod", "modulo"]),
    ("n / 2", &["div", "intdiv"]),
    ("trunc(v)", &["truncate"]),
    ("signum(v)", &["sign"]),
    (
        "d ->> 'name'",
        &[
            "json_extract",
            "json_value",
            "json_query",
            "json_extract_string",
            "json_extract_scalar",
            "json_extract_path",
            "json_extract_path_text",
            "jsonb_extract_path",
            "jsonb_extract_path_text",
            "jsonextract",
            "jsonextractstring",
            "jsonextractraw",
            "jsonextractint",
            "jsonextractfloat",
            "jsonextractbool",
            "simplejsonextractstring",
            "visitparamextractstring",
            "extractjsonfield",
            "get_json_object",
            "get_path",
            "json_path",
            "json_unquote",
        ],
    ),
    (
        "CAST(k AS JSON)",
        &["parse_json", "try_parse_json", "from_json", "json", "to_jsonb", "to_json", "json_parse", "tojsonstring"],
    ),
    ("json_length(d)", &["json_array_length", "jsonb_array_length", "jsonlength", "json_size"]),
    ("json_contains(d, 'name')", &["json_exists", "jsonhas", "json_contains_path", "jsonb_exists"]),
    ("named_struct('value', v)", &["json_object", "json_build_object", "jsonb_build_object", "object_construct", "struct_pack"]),
    ("CAST(v AS TEXT)", &["tostring", "to_varchar", "string", "to_text"]),
    (
        "CAST(k AS BIGINT)",
        &["toint8", "toint16", "toint32", "toint64", "touint8", "touint16", "touint32", "touint64", "to_number"],
    ),
    ("CAST(k AS DOUBLE)", &["tofloat32", "tofloat64", "to_double", "todecimal64"]),
    ("CAST(ts AS DATE)", &["todate", "date"]),
    ("TRY_CAST(k AS BIGINT)", &["toint64ornull", "toint32ornull", "tofloat64ornull", "try_to_number", "try_to_timestamp"]),
    ("length(k)", &["len", "strlen", "lengthutf8"]),
    ("upper(k)", &["ucase", "upperutf8", "toupper"]),
    ("lower(k)", &["lcase", "lowerutf8", "tolower"]),
    ("strpos(k, 'a')", &["charindex", "locate", "positioncaseinsensitive"]),
    ("starts_with(k, 'a')", &["startswith"]),
    ("ends_with(k, 'a')", &["endswith"]),
    ("string_to_array(k, ',')", &["split", "splitbychar", "string_split", "str_split", "splitbystring"]),
    ("concat(k, ': ', v)", &["format", "printf", "format_string"]),
    ("encode(k, 'base64')", &["to_base64", "base64", "base64encode", "hex"]),
    ("decode(k, 'base64')", &["from_base64", "unbase64", "base64decode", "unhex"]),
    ("digest(k, 'sha256')", &["sha1", "sha2", "sha", "crc32", "xxhash64", "cityhash64"]),
    ("cardinality(tags)", &["size", "array_size", "arraycount", "len_array"]),
    ("array_has(tags, 'a')", &["has", "arrayexists", "array_position_of"]),
    ("unnest(tags)", &["explode", "arrayjoin", "flatten_array", "table_flatten"]),
    ("lag(v) OVER (PARTITION BY k ORDER BY ts)", &["laginframe", "neighbor", "previous", "prev"]),
    ("v - lag(v) OVER (PARTITION BY k ORDER BY ts)", &["runningdifference", "delta", "difference"]),
    ("lead(v) OVER (PARTITION BY k ORDER BY ts)", &["leadinframe"]),
    ("arrow_typeof(v)", &["typeof", "pg_typeof", "totypename", "system_typeof"]),
    ("uuid()", &["gen_random_uuid", "generateuuidv4", "generate_uuid", "newid", "uuid_string", "uuid_generate_v4"]),
    ("random()", &["randcanonical", "random_uniform"]),
];

/// Functions that need more than another name.
const SENTENCES: &[(&str, &[&str])] = &[
    ("write v IS NULL, or coalesce(v, 0) for another value in its place", &["isnull", "isnotnull"]),
    (
        "subtract: b - a is an interval, and to_unixtime(b) - to_unixtime(a) its seconds",
        &["datediff", "date_diff", "timestampdiff", "timestamp_diff", "datetime_diff", "time_diff", "age", "julianday"],
    ),
    (
        "give the window a name, as in TUMBLE(INTERVAL '1 minute') AS window, and write window.start",
        &[
            "tumble_start",
            "hop_start",
            "session_start",
            "cumulate_start",
            "tumblestart",
            "hopstart",
            "window_start",
            "windowstart",
        ],
    ),
    (
        "give the window a name, as in TUMBLE(INTERVAL '1 minute') AS window, and write window.end",
        &[
            "tumble_end",
            "hop_end",
            "session_end",
            "cumulate_end",
            "tumbleend",
            "hopend",
            "window_end",
            "windowend",
            "tumble_rowtime",
            "hop_rowtime",
            "session_rowtime",
            "tumble_proctime",
        ],
    ),
    (
        "write TUMBLE(INTERVAL '1 minute') AS window in SELECT, and GROUP BY window",
        &["window", "tumbling", "time_window", "tumblingwindow", "tumble_window"],
    ),
    (
        "write HOP(INTERVAL '10 seconds', INTERVAL '1 minute') AS window in SELECT, and GROUP BY window",
        &["hopping", "sliding", "slidingwindow", "hoppingwindow", "hop_window"],
    ),
    (
        "write SESSION(INTERVAL '5 minutes') AS window in SELECT, and GROUP BY window",
        &["session_window", "sessionwindow", "sessionize"],
    ),
    (
        "a window that grows gives early results: CREATE VIEW v WITH (emit = 'changes') AS SELECT …, TUMBLE(INTERVAL '1 hour') AS window …",
        &["cumulate", "cumulating"],
    ),
    (
        "how far event time has come shows SHOW STATUS; in SELECT, now() is the time of arrival",
        &["current_watermark", "watermark", "mz_now", "mz_logical_timestamp"],
    ),
    (
        "name the column of the event time; METADATA FROM 'received_at' is the time of arrival",
        &["rowtime", "event_time", "streams_rowtime"],
    ),
    (
        "a watermark is declared with the table: WATERMARK FOR ts AS ts - INTERVAL '5 seconds'",
        &["with_watermark", "withwatermark"],
    ),
    (
        "rank within a window: ROW_NUMBER() OVER (PARTITION BY window ORDER BY v DESC) with QUALIFY, or ORDER BY v DESC LIMIT 3",
        &["topk", "top_k", "topkdistinct", "approx_top_k", "approx_top_count"],
    ),
];

/// Names that other programs give to columns that are there by themselves.
const COLUMNS: &[(&str, &[&str])] = &[
    (
        "a window that is called window has window.start and window.end: TUMBLE(INTERVAL '1 minute') AS window",
        &["window_start", "window_end", "windowstart", "windowend", "_wstart", "_wend", "wstart", "wend", "window_time"],
    ),
    (
        "the event time is a column of the table; the time of arrival is one declared with METADATA FROM 'received_at'",
        &["rowtime", "proctime", "_timestamp", "__time", "_ingest_time", "kafka_timestamp", "_rw_timestamp", "mz_timestamp"],
    ),
    (
        "the id of an event is a column declared with METADATA FROM 'event_id'",
        &["rowid", "_rowid", "_row_id", "_id", "rownum", "_offset", "rowoffset", "kafka_offset"],
    ),
    (
        "a unit is written as a text: date_trunc('minute', ts), date_part('minute', ts)",
        &["millisecond", "second", "minute", "hour", "day", "week", "month", "quarter", "year"],
    ),
    ("it is now()", &["sysdate", "systimestamp", "getdate", "localtimestamp", "localtime"]),
];

/// Words in a row that no statement has here, whatever is around them: `(` stands for itself.
const PHRASES: &[(&str, &str, &str)] = &[
    (
        "MATCH_RECOGNIZE (",
        "MATCH_RECOGNIZE is not built",
        "compare a row with those before it: LAG(v) OVER (PARTITION BY k ORDER BY ts), and filter with QUALIFY",
    ),
    ("ASOF JOIN", "ASOF JOIN is not built", ASOF),
    ("ASOF LEFT JOIN", "ASOF JOIN is not built", ASOF),
    ("ASOF INNER JOIN", "ASOF JOIN is not built", ASOF),
    ("FOR SYSTEM_TIME", "FOR SYSTEM_TIME AS OF is not built", AS_OF),
    ("FOR TIMESTAMP AS OF", "rows of an earlier time are not kept", AS_OF),
    ("AS OF SYSTEM TIME", "rows of an earlier time are not kept", AS_OF),
    ("AS OF TIMESTAMP", "rows of an earlier time are not kept", AS_OF),
    ("CUMULATE (", "CUMULATE is not built", CUMULATE),
    ("TUMBLE ( TABLE", "a window is no table here", WINDOW_IN_FROM),
    ("HOP ( TABLE", "a window is no table here", WINDOW_IN_FROM),
    ("SESSION ( TABLE", "a window is no table here", WINDOW_IN_FROM),
    ("TUMBLE ( DATA", "a window is no table here", WINDOW_IN_FROM),
    ("HOP ( DATA", "a window is no table here", WINDOW_IN_FROM),
    ("SESSION ( DATA", "a window is no table here", WINDOW_IN_FROM),
    ("TABLE ( TUMBLE", "a window is no table here", WINDOW_IN_FROM),
    ("TABLE ( HOP", "a window is no table here", WINDOW_IN_FROM),
    ("TABLE ( SESSION", "a window is no table here", WINDOW_IN_FROM),
    ("WINDOW TUMBLING (", "a window is a function here", WINDOW_IN_FROM),
    ("WINDOW HOPPING (", "a window is a function here", WINDOW_IN_FROM),
    ("WINDOW SESSION (", "a window is a function here", WINDOW_IN_FROM),
    (
        "EMIT ON WINDOW CLOSE",
        "EMIT ON WINDOW CLOSE is how it is here anyway",
        "leave it out: a window gives its result when it closes",
    ),
    ("EMIT FINAL", "EMIT FINAL is how it is here anyway", "leave it out: a window gives its result when it closes"),
    (
        "EMIT AFTER",
        "EMIT knows only CHANGES",
        "leave it out: a window gives its result when it closes; EMIT CHANGES gives early ones too",
    ),
    (
        "EMIT STREAM",
        "EMIT knows only CHANGES",
        "leave it out: a window gives its result when it closes; EMIT CHANGES gives early ones too",
    ),
    ("EMIT UPDATES", "EMIT knows only CHANGES", "write EMIT CHANGES"),
    (
        "LATERAL VIEW",
        "LATERAL VIEW is not built",
        "unnest a list in SELECT: SELECT k, unnest(tags) AS tag FROM …, over the results of a window",
    ),
];

const ASOF: &str = "join a feed with rows that do not change: JOIN … ON …; or take the latest value before a row with LAG(v) OVER (PARTITION BY k ORDER BY ts)";

const AS_OF: &str = "leave it out: a feed is joined with the rows of a static table as they were read when the query began";

const WINDOW_IN_FROM: &str =
    "windows stand in SELECT: SELECT TUMBLE(INTERVAL '1 minute') AS window, COUNT(*) FROM t GROUP BY window";

const CUMULATE: &str = "a window that grows gives early results: CREATE VIEW v WITH (emit = 'changes') AS SELECT …, TUMBLE(INTERVAL '1 hour') AS window …";

/// Forms of SQL that the parser knows and DataFusion does not, by their names in the parser's tree.
const FORMS: &[(&str, &[&str])] = &[
    ("write title ~ 'pattern', or regexp_like(title, 'pattern')", &["rlike", "regexp"]),
    ("write sum(v) FILTER (WHERE k = 'a') AS a, … for each column", &["pivot"]),
    ("UNION ALL a SELECT for each of the columns", &["unpivot"]),
    ("write CAST(k AS BIGINT)", &["convert"]),
    ("write WHERE EXISTS (…) or k IN (SELECT …), over a static table", &["exists"]),
    ("write JOIN … ON …", &["crossapply", "outerapply", "asof", "any", "anti", "semi", "array", "straightjoin"]),
];

/// What to write for a form of SQL that is not known.
pub(super) fn form(name: &str) -> Option<&'static str> {
    among(FORMS, name)
}

fn among(table: &'static [(&str, &[&str])], name: &str) -> Option<&'static str> {
    table.iter().find(|(_, names)| names.iter().any(|known| known.eq_ignore_ascii_case(name))).map(|(text, _)| *text)
}

/// What a function of another program is called here.
pub(super) fn function(name: &str) -> Option<String> {
    match among(FUNCTIONS, name) {
        Some(expression) => Some(format!("here it is written {expression}")),
        None => among(SENTENCES, name).map(str::to_string),
    }
}

/// What a column that is there by itself in another program is here.
pub(super) fn column(name: &str) -> Option<&'static str> {
    among(COLUMNS, name)
}

/// The first words of a statement that are those of another program.
pub(super) fn phrase(tokens: &[TokenWithSpan]) -> Option<Error> {
    (0..tokens.len()).find_map(|at| {
        let (phrase, message, hint) = PHRASES.iter().find(|(phrase, ..)| begins(&tokens[at..], phrase))?;
        let last = at + phrase.split(' ').count() - 1;
        let span = Span { start: Span::from(tokens[at].span).start, end: Span::from(tokens[last].span).end };
        Some(Error::new(Code::NotYet, *message).at(span).hint(*hint))
    })
}

fn begins(tokens: &[TokenWithSpan], phrase: &str) -> bool {
    phrase.split(' ').enumerate().all(|(index, word)| match (tokens.get(index), word) {
        (Some(token), "(") => token.token == Token::LParen,
        (Some(token), word) => is_word(&token.token, word),
        (None, _) => false,
    })
}

#[cfg(test)]
mod tests {
    use datafusion::execution::FunctionRegistry;
    use datafusion::prelude::SessionContext;
    use futures::executor::block_on;

    use super::*;

    #[test]
    fn no_word_is_told_twice() {
        for table in [FUNCTIONS, SENTENCES, COLUMNS] {
            let mut seen = std::collections::HashSet::new();
            for name in table.iter().flat_map(|(_, names)| names.iter()) {
                assert!(seen.insert(name) && name.to_ascii_lowercase() == **name, "{name}");
            }
        }
        for name in FUNCTIONS.iter().flat_map(|(_, names)| names.iter()) {
            assert!(among(SENTENCES, name).is_none(), "{name}");
        }
    }

    /// What a hint says to write is known, and what it is a hint for is not.
    #[test]
    fn what_a_hint_says_to_write_can_be_planned() {
        let session = SessionContext::new();
        crate::register(&session).unwrap();
        let table = "CREATE TABLE t (ts TIMESTAMP, k TEXT, v DOUBLE, n BIGINT, b BOOLEAN, d JSON, tags TEXT[])
            WITH (connector = 'file', path = 'nowhere')";
        crate::create_table(&session, table).unwrap();
        let mut wrong = Vec::new();
        for (expression, names) in FUNCTIONS {
            if let Err(error) = block_on(session.sql(&format!("SELECT {expression} FROM t"))) {
                wrong.push(format!("{expression}: {error}"));
            }
            let state = session.state();
            let is_known = |name: &&&str| {
                session.udf(name).is_ok() || session.udaf(name).is_ok() || state.window_functions().contains_key(**name)
            };
            wrong.extend(names.iter().filter(is_known).map(|name| format!("{name} is known")));
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
