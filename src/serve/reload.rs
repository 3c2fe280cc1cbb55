//! Other settings while the server runs: what changes at once, what a restart needs, and that wrong ones change nothing.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use secrecy::{ExposeSecret, SecretString};

use super::app::App;
use super::connections::files_max;
use super::listen::Shutdown;
use super::settings::{Auth, Settings, Token};
use crate::error::{Code, Error, Result};

/// How often the token file and the times of tokens are looked at: a token that is gone is to be refused within a second.
const LOOK_EVERY: Duration = Duration::from_millis(400);

/// The settings as they are now.
#[derive(Debug)]
pub struct CurrentSettings(RwLock<Arc<Settings>>);

impl CurrentSettings {
    pub fn new(settings: Settings) -> Self {
        CurrentSettings(RwLock::new(Arc::new(settings)))
    }

    pub fn now(&self) -> Arc<Settings> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, settings: Settings) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }
}

/// What became of other settings; both by the names of the settings.
#[derive(Debug, Default, PartialEq)]
pub struct Reloaded {
    /// What holds from now on.
    pub changed: Vec<&'static str>,
    /// What holds after a restart only.
    pub waiting: Vec<&'static str>,
}

impl App {
    /// Takes other settings, all or none of them.
    pub fn reload(&self, mut fresh: Settings) -> Result<Reloaded> {
        let old = self.settings.now();
        fresh.feeds.own.clone_from(&old.feeds.own);
        let is_stored = self.gate.tokens().has_stored_admin();
        fresh.check(is_stored)?;
        // A file that an editor is just writing may be empty.
        let has_token = |auth: &Auth| auth.token.is_some() || !auth.tokens.is_empty();
        if has_token(&old.auth) && !has_token(&fresh.auth) && !is_stored {
            return Err(Error::new(Code::NotAllowed, "the settings have no token any more: everybody could do everything")
                .hint("name a token, or restart the server without one"));
        }
        self.gate.tokens().reload(&fresh.auth)?;
        self.gate.settle();
        let reloaded = differences(&old, &fresh);
        self.values.set(fresh.secrets.values.clone());
        self.engine.limit(super::start::policy(&fresh, fresh.feeds.files, &self.values));
        self.streams.limiter().set(&fresh.http);
        self.connections.set(&fresh.http, files_max());
        self.origins.set(&fresh);
        self.settings.set(fresh);
        Ok(reloaded)
    }

    /// Takes the tokens of the settings again, after their file has changed.
    fn reload_token(&self) -> Result<()> {
        let mut fresh = Settings::clone(&self.settings.now());
        fresh.auth.fill()?;
        self.reload(fresh).map(drop)
    }
}

/// Lets tokens end in time, and sees when the token file is another one, until the shutdown begins.
pub(super) async fn watch_tokens(app: Arc<App>, shutdown: Shutdown) {
    let mut seen = None;
    let file = || app.settings.now().auth.token_file.clone();
    if let Some(file) = file() {
        seen = stamp(&file);
    }
    loop {
        tokio::select! {
            () = shutdown.begun() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if let Err(error) = app.gate.tokens().expire(SystemTime::now()) {
            tracing::error!(%error, "a token that has expired cannot be removed from the data directory");
        }
        let Some(file) = file() else { continue };
        // One that is not there is being replaced.
        let Some(now) = stamp(&file).filter(|now| Some(*now) != seen) else { continue };
        seen = Some(now);
        match app.reload_token() {
            Ok(()) => tracing::info!(file = %file.display(), "the token file has changed: its token holds from now on"),
            Err(error) => tracing::error!(%error, "the token file has changed and cannot be used: the token before holds"),
        }
    }
}

/// What changes with the content of a file.
fn stamp(file: &Path) -> Option<(SystemTime, u64, u64)> {
    let about = std::fs::metadata(file).ok()?;
    #[cfg(unix)]
    let number = std::os::unix::fs::MetadataExt::ino(&about);
    #[cfg(not(unix))]
    let number = 0;
    Some((about.modified().ok()?, about.len(), number))
}

/// The settings that differ.
fn differences(old: &Settings, new: &Settings) -> Reloaded {
    let mut reloaded = Reloaded::default();
    let mut at_once = |name, differs: bool| reloaded.changed.extend(differs.then_some(name));
    let text = |secret: &SecretString| secret.expose_secret().to_string();
    let token = |auth: &Auth| auth.token.as_ref().map(text);
    let one = |token: &Token| (token.name.clone(), text(&token.token), token.scopes.clone());
    let tokens = |auth: &Auth| auth.tokens.iter().map(one).collect::<Vec<_>>();
    let values =
        |settings: &Settings| settings.secrets.values.iter().map(|(name, value)| (name.clone(), text(value))).collect::<Vec<_>>();
    at_once("auth.token", token(&old.auth) != token(&new.auth));
    at_once("auth.tokens", tokens(&old.auth) != tokens(&new.auth));
    at_once("secrets.values", values(old) != values(new));
    at_once("secrets.env", old.secrets.env != new.secrets.env);
    at_once("secrets.bind", old.secrets.bind != new.secrets.bind);
    at_once("feeds.allow_hosts", old.feeds.allow_hosts != new.feeds.allow_hosts);
    at_once("feeds.files", old.feeds.files != new.feeds.files);
    at_once("ready", old.ready != new.ready);
    macro_rules! http {
        ($each:ident: $($name:literal $field:ident;)*) => { $($each($name, old.http.$field != new.http.$field);)* };
    }
    http! { at_once:
        "http.hosts" hosts;
        "http.cors_origins" cors_origins;
        "http.streams_max" streams_max;
        "http.streams_per_address_max" streams_per_address_max;
        "http.streams_per_token_max" streams_per_token_max;
        "http.connects_per_second_max" connects_per_second_max;
        "http.trusted_proxies" trusted_proxies;
        "http.connections_max" connections_max;
        "http.connections_per_address_max" connections_per_address_max;
        "http.head_timeout" head_timeout;
        "http.body_timeout" body_timeout;
        "http.idle_timeout" idle_timeout;
        "http.unread_timeout" unread_timeout;
    }
    let mut later = |name, differs: bool| reloaded.waiting.extend(differs.then_some(name));
    later("bind", old.bind != new.bind);
    later("listeners", old.listeners != new.listeners);
    later("data", old.data != new.data);
    later("checkpoint_interval", old.checkpoint_interval != new.checkpoint_interval);
    later("init", old.init != new.init);
    later("auth.insecure_no_auth", old.auth.insecure_no_auth != new.auth.insecure_no_auth);
    later("log.format", old.log != new.log);
    later("streams", old.streams != new.streams);
    http! { later:
        "http.body_bytes_max" body_bytes_max;
        "http.heartbeat" heartbeat;
        "http.base_path" base_path;
    }
    reloaded
}

impl std::fmt::Display for Reloaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.changed.as_slice() {
            [] => f.write_str("nothing changed")?,
            changed => write!(f, "changed: {}", changed.join(", "))?,
        }
        match self.waiting.as_slice() {
            [] => Ok(()),
            waiting => write!(f, "; only after a restart: {}", waiting.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::settings::Words;

    #[test]
    fn what_changes_is_told_by_its_name_and_not_by_its_value() {
        let old = Settings::default();
        let mut new = Settings::default();
        assert_eq!(differences(&old, &new).to_string(), "nothing changed");
        new.auth.token = Some("0123456789abcdef".into());
        new.http.hosts = Words(vec!["gauge.example".into()]);
        new.secrets.values.insert("SSE_TOKEN".into(), "geheim".into());
        new.bind = "127.0.0.1:1".parse().unwrap();
        let told = differences(&old, &new).to_string();
        assert_eq!(told, "changed: auth.token, secrets.values, http.hosts; only after a restart: bind");
    }
}
