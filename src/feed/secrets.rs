//! What a connection knows and nobody may see: recognised by its name, hidden in every text that leaves.

use secrecy::{ExposeSecret, SecretString};

/// A shorter secret is none, and hiding it would take words apart.
const SECRET_BYTES_MIN: usize = 4;

/// Whether the name of a header or query parameter tells that its value is nobody's business.
pub(super) fn sounds_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["auth", "cookie", "key", "token", "secret", "password", "session", "credential", "signature"]
        .iter()
        .any(|telltale| name.contains(telltale))
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
