//! Access tokens: made from the system's randomness, shown once, kept as hashes, compared without a hint of where they differ.

use std::sync::{Mutex, PoisonError};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::scope::Scope;
use crate::checkpoint::{Space, Store};
use crate::error::{Code, Error, Result};
use crate::serve::settings;
use crate::time::Timestamp;

/// What a secret starts with, so that people and scanners know one when they see it.
pub const PREFIX: &str = "sg_";

/// 256 bits: nobody guesses them.
const SECRET_BYTES: usize = 32;

/// Enough for every client of its own; a list that is read whole stays small.
const TOKENS_MAX: usize = 10_000;

/// What is known of a token: all but the token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    pub name: String,
    pub scopes: Vec<Scope>,
    /// RFC 3339.
    pub created_at: String,
    sha256: String,
    /// Whether the settings name it: such a token is in no store and goes when the settings let it go.
    #[serde(skip)]
    pub configured: bool,
}

/// All tokens of a server.
#[derive(Debug)]
pub struct Tokens {
    store: Store,
    known: Mutex<Vec<Record>>,
}

impl Tokens {
    /// Those of the store, and those of the settings.
    pub fn new(settings: &settings::Auth, store: Store) -> Result<Self> {
        let mut known: Vec<Record> = store.values(Space::Tokens)?;
        let whole = settings.token.iter().map(|token| Ok::<_, Error>(("auth.token", token, vec![Scope::Admin])));
        let scoped = settings.tokens.iter().map(|token| {
            let scopes = token.scopes.0.iter().map(|scope| scope.parse::<Scope>()).collect::<Result<Vec<_>, _>>();
            let wrong = |reason| Error::new(Code::Settings, format!("the token '{}' in the settings: {reason}", token.name));
            Ok((token.name.as_str(), &token.token, scopes.map_err(wrong)?))
        });
        for token in whole.chain(scoped) {
            let (name, token, scopes) = token?;
            known.push(Record {
                id: format!("settings:{name}"),
                name: name.to_string(),
                scopes,
                created_at: Timestamp::now().to_string(),
                sha256: hash(token.expose_secret()),
                configured: true,
            });
        }
        Ok(Tokens { store, known: Mutex::new(known) })
    }

    /// A new token. The secret is in this answer and nowhere else.
    pub fn make(&self, name: &str, scopes: Vec<Scope>) -> Result<(Record, SecretString)> {
        let secret = format!("{PREFIX}{}", random(SECRET_BYTES)?);
        let record = Record {
            id: format!("tk_{}", random(8)?),
            name: name.to_string(),
            scopes,
            created_at: Timestamp::now().to_string(),
            sha256: hash(&secret),
            configured: false,
        };
        let mut known = self.known();
        if known.iter().any(|other| other.name == name) {
            return Err(Error::new(Code::Exists, format!("there is a token '{name}' already")).hint("give it another name"));
        }
        if known.len() >= TOKENS_MAX {
            return Err(Error::new(Code::TooMany, format!("there are {TOKENS_MAX} tokens")).hint("remove some that are not used"));
        }
        self.store.put(Space::Tokens, &record.id, &record)?;
        known.push(record.clone());
        Ok((record, secret.into()))
    }

    /// In the order of their making; those of the settings last.
    pub fn list(&self) -> Vec<Record> {
        let mut list = self.known().clone();
        list.sort_by(|a, b| (a.configured, &a.created_at, &a.id).cmp(&(b.configured, &b.created_at, &b.id)));
        list
    }

    /// Removes the token of this id or name, if it is there.
    pub fn remove(&self, name: &str) -> Result<Option<Record>> {
        let mut known = self.known();
        let Some(index) = known.iter().position(|record| record.id == name || record.name == name) else { return Ok(None) };
        if known[index].configured {
            return Err(Error::new(Code::InUse, format!("the token '{name}' is set by the settings"))
                .hint("take it out of the settings and start again"));
        }
        self.store.remove(Space::Tokens, &known[index].id)?;
        Ok(Some(known.remove(index)))
    }

    /// The record of a secret. Every known hash is compared whole.
    pub fn find(&self, secret: &str) -> Option<Record> {
        let given = hash(secret);
        let mut found = None;
        for record in self.known().iter() {
            if bool::from(record.sha256.as_bytes().ct_eq(given.as_bytes())) {
                found = Some(record.clone());
            }
        }
        found
    }

    /// Whether somebody can be let in who may do everything: then all others can be kept out.
    pub fn has_admin(&self) -> bool {
        self.known().iter().any(|record| record.scopes.contains(&Scope::Admin))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Vec<Record>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Random bytes of the system in hexadecimal digits.
pub(super) fn random(bytes: usize) -> Result<String> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(|error| Error::bug(format!("the system gives no random bytes: {error}")))?;
    Ok(hexadecimal(&random))
}

/// SHA-256 in hexadecimal digits. A secret of 256 random bits needs no slow hash.
pub(super) fn hash(secret: &str) -> String {
    hexadecimal(&Sha256::digest(secret.as_bytes()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn tokens(store: Store) -> Tokens {
        Tokens::new(&settings::Auth::default(), store).unwrap()
    }

    #[test]
    fn a_token_is_known_by_its_secret_and_after_a_restart() {
        let dir = TempDir::new().unwrap();
        let secret = {
            let tokens = tokens(Store::open(dir.path()).unwrap());
            let (record, secret) = tokens.make("ci", vec![Scope::Write]).unwrap();
            assert!(secret.expose_secret().starts_with("sg_") && secret.expose_secret().len() == 67);
            assert_eq!(tokens.find(secret.expose_secret()), Some(record));
            secret
        };
        let tokens = tokens(Store::open(dir.path()).unwrap());
        let record = tokens.find(secret.expose_secret()).unwrap();
        assert_eq!((record.name.as_str(), &record.scopes[..]), ("ci", &[Scope::Write][..]));
        assert_eq!(tokens.find("sg_no"), None);
        assert!(!tokens.has_admin());
        assert!(tokens.make("ci", vec![]).is_err());
        assert_eq!(tokens.remove("ci").unwrap().unwrap().id, record.id);
        assert_eq!((tokens.find(secret.expose_secret()), tokens.remove("ci").unwrap()), (None, None));
    }

    #[test]
    fn the_secret_is_neither_in_the_record_nor_in_the_store() {
        let store = Store::in_memory().unwrap();
        let (record, secret) = tokens(store.clone()).make("ci", vec![Scope::Read]).unwrap();
        let stored = format!("{:?} {record:?} {secret:?}", store.values::<serde_json::Value>(Space::Tokens).unwrap());
        assert!(!stored.contains(secret.expose_secret()), "{stored}");
    }

    #[test]
    fn tokens_of_the_settings_are_known_and_stay() {
        let settings = settings::Auth { token: Some("0123456789abcdef".into()), ..Default::default() };
        let tokens = Tokens::new(&settings, Store::in_memory().unwrap()).unwrap();
        assert!(tokens.has_admin() && tokens.find("0123456789abcdef").is_some());
        assert_eq!(tokens.remove("auth.token").unwrap_err().code(), Code::InUse);
    }
}
