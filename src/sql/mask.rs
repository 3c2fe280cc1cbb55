//! A script with the secrets in its options covered, so that it can be shown.

use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use super::dialect::Sql;
use super::statement::CreateTable;
use super::syntax::is_word;
use super::text::Text;
use crate::error::{Code, Error};
use crate::feed::{MASK, holds_mask, secret_parts};

impl CreateTable {
    /// The statement as written, `***` in place of each secret in its options.
    pub fn shown(&self) -> String {
        masked(&self.text, |_| MASK.into())
    }

    /// Refuses a statement that was copied from an answer with the masks in it: nothing tells what they stood for.
    pub fn refuse_masks(&self) -> Result<(), Vec<Error>> {
        let masks = self.options.iter().filter(|given| holds_mask(&given.name, &given.value));
        let errors: Vec<Error> = masks
            .map(|given| {
                let error =
                    Error::new(Code::BadOption, format!("option '{}' is masked: {MASK} stands where a secret was", given.name));
                let error = error.hint("give the secret itself, or as {{ NAME }} a variable of the environment");
                given.span.map_or(error.clone(), |span| error.at(span))
            })
            .collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

/// Covers each secret letter by letter, so that all places stay what they are.
pub fn covered(script: &str) -> String {
    masked(script, |secret| secret.chars().map(|letter| if letter == '\n' { letter } else { '*' }).collect())
}

/// Finds `WITH (… name = 'value' …)` also where the rest of a statement makes no sense.
fn masked(script: &str, cover: impl Fn(&str) -> String) -> String {
    let mut tokens: Vec<TokenWithSpan> = Vec::new();
    // What cannot be read any more is left over, see below.
    let cut = Tokenizer::new(&Sql, script).tokenize_with_location_into_buf(&mut tokens);
    tokens.retain(|token| !matches!(token.token, Token::Whitespace(_)));
    let text = Text::new(script);
    let mut parts = Vec::new();
    let mut depth = 0_usize;
    for at in 0..tokens.len() {
        match &tokens[at].token {
            Token::LParen if depth > 0 || (at > 0 && is_word(&tokens[at - 1].token, "WITH")) => depth += 1,
            Token::RParen | Token::SemiColon => depth = depth.saturating_sub(1),
            _ if depth > 0 && at > 1 && tokens[at - 1].token == Token::Eq => {
                let Some(option) = name(&tokens[at - 2].token) else { continue };
                let range = text.range(tokens[at].span.into());
                // Whatever the quotes are, also those that are refused, as in `E'…'`; without quotes there is no secret.
                let Some(opening) = script[range.clone()].find(['\'', '"', '`', '$']) else { continue };
                let start = range.start + opening + 1;
                let Some(value) = script.get(start..range.end.saturating_sub(1)) else { continue };
                parts.extend(secret_parts(option, value).into_iter().map(|part| start + part.start..start + part.end));
            }
            _ => {}
        }
    }
    if let Err(error) = cut {
        // A string without its end: what follows may be anything.
        let span = sqlparser::tokenizer::Span::new(error.location, error.location);
        parts.push(text.range(span.into()).start..script.len());
    }
    let (mut shown, mut end) = (String::with_capacity(script.len()), 0);
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        shown.push_str(&script[end..part.start]);
        shown.push_str(&cover(&script[part.clone()]));
        end = part.end;
    }
    shown + &script[end..]
}

fn name(token: &Token) -> Option<&str> {
    match token {
        Token::Word(word) => Some(&word.value),
        Token::SingleQuotedString(name) => Some(name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{StatementKind, parse};

    const SCRIPT: &str = "CREATE TABLE t (a TEXT) WITH (\n  connector = 'sse', 'headers' = 'X-Key: geh''eim, B: {{ B }}',\n  \
                          endpoint = 'https://u:geheim@x/?y=1', events = 'a');";

    #[test]
    fn a_statement_is_shown_as_written_without_its_secrets() {
        let (statements, errors) = parse(SCRIPT);
        assert_eq!(errors, []);
        let StatementKind::CreateTable(create) = &statements[0].kind else { panic!("no table") };
        assert_eq!(
            create.shown(),
            "CREATE TABLE t (a TEXT) WITH (\n  connector = 'sse', 'headers' = 'X-Key: ***, B: {{ B }}',\n  \
             endpoint = 'https://***@x/?y=1', events = 'a')"
        );
    }

    #[test]
    fn a_value_in_other_quotes_is_covered_too() {
        for value in ["\"X-Key: geheim\"", "`X-Key: geheim`", "E'X-Key: geheim'", "N'X-Key: geheim'", "$$X-Key: geheim$$"] {
            let covered = covered(&format!("CREATE TABLE t (a TEXT) WITH (headers = {value}, events = 'a')"));
            assert!(covered.contains("X-Key: ") && !covered.contains("geheim"), "{covered}");
        }
    }

    #[test]
    fn a_covered_script_keeps_its_places() {
        let covered = covered(SCRIPT);
        assert!(!covered.contains("geh") && covered.contains("'X-Key: ********, B: {{ B }}'"), "{covered}");
        assert_eq!(covered.len(), SCRIPT.len());
    }

    #[test]
    fn a_broken_script_is_covered_too_and_one_without_secrets_stays_as_it_is() {
        for broken in [
            "CREATE TABEL t WITH (headers = 'A: geheim'",
            "x WITH (headers = 'A: geheim', ) ; SELEC",
            "WITH (headers = 'A: geheim",
        ] {
            assert!(!covered(broken).contains("geheim"), "{}", covered(broken));
        }
        for plain in ["WITH x AS (SELECT body FROM t WHERE body = 'a') SELECT 1", "SELECT 'ü' -- é\n;", ""] {
            assert_eq!(covered(plain), plain);
        }
    }
}
