//! Names of tables and views: which ones requests may give, and the opaque ids that stand beside them.

use sha2::{Digest, Sha256};

use crate::error::{Code, Error, Result};

/// Longest name, in bytes.
const BYTES_MAX: usize = 63;

/// Refuses what is no name for a new `what`, a table or a view: it stands in addresses, and in SQL without surprises.
pub fn check(what: &str, name: &str) -> Result<()> {
    let mut letters = name.bytes();
    let is_name = letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, b'_' | b'-'))
        && name.len() <= BYTES_MAX;
    match is_name {
        true => Ok(()),
        false => Err(Error::new(Code::Syntax, format!("this is no name of a {what}"))
            .hint(format!("give a letter or `_`, then letters, digits, `_` and `-`, at most {BYTES_MAX} in all"))),
    }
}

/// A name for life: it tells a table or view from a later one of the same name.
pub fn opaque_id(prefix: &str, name: &str, created: i64) -> String {
    let digest = Sha256::digest(format!("{name}\0{created}"));
    let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}_{hex}")
}
