//! Access tokens: made from the system's randomness, shown once, kept as hashes, compared without a hint of where they differ.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::scope::Scope;
use crate::checkpoint::{Space, Store};
use crate::error::{Code, Error, Result};
use crate::serve::listen::{Shutdown, Stop};
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
    /// RFC 3339; the token is good until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    sha256: String,
    /// Whether the settings name it: such a token is in no store and goes when the settings let it go.
    #[serde(skip)]
    pub configured: bool,
}

/// All tokens of a server.
#[derive(Debug)]
pub struct Tokens {
    store: Store,
    known: Mutex<Vec<LiveToken>>,
}

/// A token while it is known. What it has opened ends with it.
#[derive(Debug)]
struct LiveToken {
    record: Record,
    expires: Option<SystemTime>,
    until: Shutdown,
    _stop: Stop,
}

impl LiveToken {
    fn new(record: Record) -> Self {
        let (stop, until) = Shutdown::new();
        let expires = record.expires_at.as_deref().and_then(|text| humantime::parse_rfc3339_weak(text).ok());
        LiveToken { record, expires, until, _stop: stop }
    }

    fn is_good(&self, now: SystemTime) -> bool {
        self.expires.is_none_or(|expires| expires > now)
    }
}

impl Tokens {
    /// Those of the store, and those of the settings.
    pub fn new(settings: &settings::Auth, store: Store) -> Result<Self> {
        let kept: Vec<Record> = store.values(Space::Tokens)?;
        let known = kept.into_iter().chain(configured(settings)?).map(LiveToken::new).collect();
        Ok(Tokens { store, known: Mutex::new(known) })
    }

    /// Takes the tokens of other settings. Those that are still there as they were stay with all that they have opened.
    pub fn reload(&self, settings: &settings::Auth) -> Result<()> {
        let fresh = configured(settings)?;
        let mut known = self.known();
        known.retain(|known| !known.record.configured || fresh.iter().any(|fresh| known.record.is_same(fresh)));
        let missing: Vec<Record> =
            fresh.into_iter().filter(|fresh| !known.iter().any(|known| known.record.is_same(fresh))).collect();
        known.extend(missing.into_iter().map(LiveToken::new));
        Ok(())
    }

    /// Forgets the tokens whose time is up.
    pub fn expire(&self, now: SystemTime) -> Result<()> {
        let mut known = self.known();
        for expired in known.iter().filter(|known| !known.is_good(now)) {
            tracing::info!(token = expired.record.name, "a token has expired");
            self.store.remove(Space::Tokens, &expired.record.id)?;
        }
        known.retain(|known| known.is_good(now));
        Ok(())
    }
    /// A new token. The secret is in this answer and nowhere else.
    pub fn make(&self, name: &str, scopes: Vec<Scope>, expires_at: Option<String>) -> Result<(Record, SecretString)> {
        let secret = format!("{PREFIX}{}", random(SECRET_BYTES)?);
        let record = Record {
            id: format!("tk_{}", random(8)?),
            name: name.to_string(),
            scopes,
            created_at: Timestamp::now().to_string(),
            expires_at,
            sha256: hash(&secret),
            configured: false,
        };
        let mut known = self.known();
        if known.iter().any(|other| other.record.name == name) {
            return Err(Error::new(Code::Exists, format!("there is a token '{name}' already")).hint("give it another name"));
        }
        if known.len() >= TOKENS_MAX {
            return Err(Error::new(Code::TooMany, format!("there are {TOKENS_MAX} tokens")).hint("remove some that are not used"));
        }
        self.store.put(Space::Tokens, &record.id, &record)?;
        known.push(LiveToken::new(record.clone()));
        Ok((record, secret.into()))
    }

    /// In the order of their making; those of the settings last.
    pub fn list(&self) -> Vec<Record> {
        let mut list: Vec<Record> = self.known().iter().map(|known| known.record.clone()).collect();
        list.sort_by(|a, b| (a.configured, &a.created_at, &a.id).cmp(&(b.configured, &b.created_at, &b.id)));
        list
    }

    /// Removes the token of this id or name, if it is there.
    pub fn remove(&self, name: &str) -> Result<Option<Record>> {
        let mut known = self.known();
        let is_meant = |LiveToken { record, .. }: &LiveToken| record.id == name || record.name == name;
        let Some(index) = known.iter().position(is_meant) else { return Ok(None) };
        if known[index].record.configured {
            return Err(Error::new(Code::InUse, format!("the token '{name}' is set by the settings"))
                .hint("take it out of the settings, and let the server read them again: kill -HUP"));
        }
        self.store.remove(Space::Tokens, &known[index].record.id)?;
        Ok(Some(known.remove(index).record))
    }

    /// The record of a secret, and how long it is one. Every known hash is compared whole.
    pub fn find(&self, secret: &str) -> Option<(Record, Shutdown)> {
        let given = hash(secret);
        let now = SystemTime::now();
        let mut found = None;
        for known in self.known().iter() {
            if bool::from(known.record.sha256.as_bytes().ct_eq(given.as_bytes())) && known.is_good(now) {
                found = Some((known.record.clone(), known.until.clone()));
            }
        }
        found
    }

    /// The name of the token of an id, and how long it is known.
    pub fn until(&self, id: &str) -> Option<(String, Shutdown)> {
        let (known, now) = (self.known(), SystemTime::now());
        let found = known.iter().find(|known| known.record.id == id && known.is_good(now))?;
        Some((found.record.name.clone(), found.until.clone()))
    }

    /// Whether somebody can be let in who may do everything: then all others can be kept out.
    pub fn has_admin(&self) -> bool {
        let now = SystemTime::now();
        self.known().iter().any(|known| known.record.scopes.contains(&Scope::Admin) && known.is_good(now))
    }

    /// Whether there is such a token that does not come from the settings.
    pub fn has_stored_admin(&self) -> bool {
        self.list().iter().any(|record| !record.configured && record.scopes.contains(&Scope::Admin))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Vec<LiveToken>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tokens that settings name.
fn configured(settings: &settings::Auth) -> Result<Vec<Record>> {
    let whole = settings.token.iter().map(|token| Ok::<_, Error>(("auth.token", token, vec![Scope::Admin])));
    let scoped = settings.tokens.iter().map(|token| {
        let scopes = token.scopes.0.iter().map(|scope| scope.parse::<Scope>()).collect::<Result<Vec<_>, _>>();
        let wrong = |reason| Error::new(Code::Settings, format!("the token '{}' in the settings: {reason}", token.name));
        Ok((token.name.as_str(), &token.token, scopes.map_err(wrong)?))
    });
    let record = |(name, token, scopes): (&str, &SecretString, Vec<Scope>)| Record {
        id: format!("settings:{name}"),
        name: name.to_string(),
        scopes,
        created_at: Timestamp::now().to_string(),
        expires_at: None,
        sha256: hash(token.expose_secret()),
        configured: true,
    };
    whole.chain(scoped).map(|token| token.map(record)).collect()
}

impl Record {
    /// Whether it is the same token, whenever it was read.
    fn is_same(&self, other: &Record) -> bool {
        (&self.id, &self.sha256, &self.scopes) == (&other.id, &other.sha256, &other.scopes)
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
            let (record, secret) = tokens.make("ci", vec![Scope::Write], None).unwrap();
            assert!(secret.expose_secret().starts_with("sg_") && secret.expose_secret().len() == 67);
            assert_eq!(tokens.find(secret.expose_secret()).map(|(found, _)| found), Some(record));
            secret
        };
        let tokens = tokens(Store::open(dir.path()).unwrap());
        let (record, until) = tokens.find(secret.expose_secret()).unwrap();
        assert_eq!((record.name.as_str(), &record.scopes[..]), ("ci", &[Scope::Write][..]));
        assert!(tokens.find("sg_no").is_none() && !until.is_begun());
        assert!(!tokens.has_admin());
        assert!(tokens.make("ci", vec![], None).is_err());
        assert_eq!(tokens.remove("ci").unwrap().unwrap().id, record.id);
        assert!(tokens.find(secret.expose_secret()).is_none() && tokens.remove("ci").unwrap().is_none() && until.is_begun());
    }

    #[test]
    fn the_secret_is_neither_in_the_record_nor_in_the_store() {
        let store = Store::in_memory().unwrap();
        let (record, secret) = tokens(store.clone()).make("ci", vec![Scope::Read], None).unwrap();
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

    #[test]
    fn a_token_ends_when_its_time_is_up_or_the_settings_let_it_go() {
        let settings = |token: &str| settings::Auth { token: Some(token.into()), ..Default::default() };
        let tokens = Tokens::new(&settings("0123456789abcdef"), Store::in_memory().unwrap()).unwrap();
        let now = SystemTime::now();
        let soon = humantime::format_rfc3339(now + std::time::Duration::from_secs(60)).to_string();
        let (_, secret) = tokens.make("short", vec![Scope::Read], Some(soon)).unwrap();
        let (_, short) = tokens.find(secret.expose_secret()).unwrap();
        tokens.expire(now).unwrap();
        assert!(!short.is_begun());
        tokens.expire(now + std::time::Duration::from_secs(61)).unwrap();
        assert!(short.is_begun() && tokens.find(secret.expose_secret()).is_none());
        let (_, admin) = tokens.find("0123456789abcdef").unwrap();
        tokens.reload(&settings("0123456789abcdef")).unwrap();
        assert!(!admin.is_begun(), "it is the same");
        tokens.reload(&settings("fedcba9876543210")).unwrap();
        assert!(admin.is_begun() && tokens.find("fedcba9876543210").is_some());
    }
}
