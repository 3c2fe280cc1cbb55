//! A table's statement for people: nothing that was written out as a credential shows.

use url::Url;

use crate::feed::{shown_endpoint, shown_headers};
use crate::sql::{self, CreateTable, Kind, Text};

/// What stands for a value that is nobody's business.
pub const MASK: &str = "***";

/// The statement of a table with `***` in place of its secrets, as text and as it reads.
pub fn masked(text: &str) -> Option<(String, CreateTable)> {
    let create = only(text)?;
    let mut shown = text.to_string();
    let mut options: Vec<_> = create.options.iter().filter_map(|given| Some((given.span?, given))).collect();
    options.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
    for (span, given) in options {
        let value = match given.name.to_ascii_lowercase().as_str() {
            "headers" => shown_headers(&given.value),
            "endpoint" | "url" | "proxy" => Url::parse(given.value.trim()).map_or_else(|_| given.value.clone(), |url| shown_endpoint(&url)),
            _ => continue,
        };
        if value != given.value {
            shown.replace_range(Text::new(text).range(span), &format!("{} = '{}'", given.name, value.replace('\'', "''")));
        }
    }
    let create = only(&shown)?;
    Some((shown, create))
}

/// The one `CREATE TABLE` of a text.
pub fn only(text: &str) -> Option<CreateTable> {
    match sql::parse(text).0.pop()?.kind {
        Kind::CreateTable(create) => Some(*create),
        _ => None,
    }
}
