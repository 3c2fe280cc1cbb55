//! What a connection knows and nobody may see: recognised by its name, hidden in every text that leaves.

use secrecy::{ExposeSecret, SecretString};

/// A shorter secret is none, and hiding it would take words apart.
const SECRET_BYTES_MIN: usize = 4;

/// Whether the name of a header or query parameter tells that its value is nobody's business.
pub(super) fn sounds_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    const TELLTALES: [&str; 18] = [
        "auth",
        "cookie",
        "key",
        "token",
        "secret",
        "passw",
        "session",
        "credential",
        "signature",
        "jwt",
        "bearer",
        "csrf",
        "xsrf",
        "passphrase",
        "pwd",
        "hmac",
        "ticket",
        "private",
    ];
    // Too short to be looked for inside other words.
    const WORDS: [&str; 6] = ["sig", "sas", "sid", "pass", "pin", "code"];
    TELLTALES.iter().any(|telltale| name.contains(telltale))
        || name.split(|letter: char| !letter.is_ascii_alphanumeric()).any(|word| WORDS.contains(&word))
}

/// A word of so many letters and digits was made by a machine.
const OPAQUE_BYTES_MIN: usize = 20;

/// Words before a credential that say what kind it is.
pub(super) const SCHEMES: [&str; 5] = ["Bearer", "Basic", "Token", "ApiKey", "Digest"];

/// Whether the value of a header may well be a credential, whatever the header is called: it says its scheme, or is one long word of
/// letters and digits.
pub(super) fn looks_secret(value: &str) -> bool {
    let mut words = value.split_whitespace();
    let first = words.next().unwrap_or_default();
    let has_scheme = SCHEMES.iter().any(|scheme| first.eq_ignore_ascii_case(scheme)) && words.next().is_some();
    let is_opaque = |word: &str| {
        word.len() >= OPAQUE_BYTES_MIN
            && word.bytes().any(|byte| byte.is_ascii_digit())
            && word.bytes().any(|byte| byte.is_ascii_alphabetic())
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.=+~".contains(&byte))
    };
    has_scheme || value.split_whitespace().any(is_opaque)
}

/// `Debug` shows none of them.
#[derive(Debug, Default)]
pub(super) struct Secrets(Vec<SecretString>);

impl Secrets {
    pub(super) fn add(&mut self, secret: impl Into<SecretString>) {
        self.0.push(secret.into());
    }

    /// The text with `***` in place of every secret, and of every word of one: `Bearer x` hides `x` alone, too. Also the beginning of
    /// one goes where the text was cut, and says so with `…`.
    pub(super) fn hide(&self, text: &str) -> String {
        let mut shown = text.to_string();
        for secret in &self.0 {
            let secret = secret.expose_secret();
            for part in std::iter::once(secret).chain(secret.split_whitespace()).filter(|part| part.len() >= SECRET_BYTES_MIN) {
                shown = shown.replace(part, "***");
                if shown.contains('…') {
                    let lengths = (SECRET_BYTES_MIN..part.len()).rev().filter(|length| part.is_char_boundary(*length));
                    for beginning in lengths.map(|length| &part[..length]) {
                        shown = shown.replace(&format!("{beginning}…"), "***…");
                    }
                }
            }
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_known_by_its_looks() {
        for (value, expect) in [
            ("Bearer x", true),
            ("token abc", true),
            ("0123456789abcdef0123", true),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.x", true),
            ("Bearer", false),
            ("p", false),
            ("text/event-stream, application/json;q=0.9", false),
            ("streamgauge/0.1.0 (ops@example.com)", false),
            ("en-GB,en;q=0.5", false),
            ("a-long-word-without-any-number", false),
        ] {
            assert_eq!(looks_secret(value), expect, "{value}");
        }
    }

    #[test]
    fn secrets_are_hidden_whole_by_word_and_cut() {
        let mut secrets = Secrets::default();
        secrets.add("Bearer geheim-é-1");
        secrets.add("abc");
        for (text, shown) in [
            ("got Bearer geheim-é-1!", "got ***!"),
            ("geheim-é-1, geheim-é-1", "***, ***"),
            ("'Bearer geheim-é…' is no number", "'***…' is no number"),
            ("geheim-é-…", "***…"),
            ("geh… abc", "geh… abc"),
            ("geheim-", "geheim-"),
        ] {
            assert_eq!(secrets.hide(text), shown);
        }
    }
}
