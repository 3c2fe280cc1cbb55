//! The log of the server: lines of text or JSON on standard error, and addresses without their secrets.

use std::borrow::Cow;
use std::io::IsTerminal;

use axum::http::Uri;
use tracing_subscriber::EnvFilter;

use super::auth::SECRET_PREFIXES;
use super::settings::LogFormat;

/// Parameters of an address whose values are nobody's business; our own tokens and tickets are hidden wherever they stand.
const SECRET_PARAMETERS: &[&str] = &["token", "ticket"];

/// Starts the log: what a request was and what became of it, feeds that come and go, more by `verbose`. `RUST_LOG` decides where it is set.
pub fn start(format: LogFormat, verbose: u8) {
    let level = ["streamgauge=info,warn", "streamgauge=debug,info", "trace"][usize::from(verbose.min(2))];
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "a log was there already");
    }
}

/// Path and query of a request as the log may show them: `/v1/views/a/stream?token=***&limit=5`.
pub fn shown(uri: &Uri) -> Cow<'_, str> {
    let Some(query) = uri.query() else { return uri.path().into() };
    let parameter = |part: &str| {
        let name = part.split('=').next().unwrap_or_default();
        let is_secret = url::form_urlencoded::parse(part.as_bytes()).any(|(name, value)| {
            SECRET_PARAMETERS.contains(&&*name) || SECRET_PREFIXES.iter().any(|prefix| value.contains(prefix))
        });
        if is_secret { format!("{name}=***") } else { part.to_string() }
    };
    format!("{}?{}", uri.path(), query.split('&').map(parameter).collect::<Vec<_>>().join("&")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_an_address_are_not_shown() {
        for (address, expect) in [
            ("/v1/views", "/v1/views"),
            ("/v1/views?limit=5", "/v1/views?limit=5"),
            ("/v1/views/a/stream?token=hush&limit=5", "/v1/views/a/stream?token=***&limit=5"),
            ("/s?limit=5&ticket=hush", "/s?limit=5&ticket=***"),
            ("/s?t%6Fken=hush", "/s?t%6Fken=***"),
            ("/s?token", "/s?token=***"),
            ("/s?tokn=sg_hush&a=st_hush", "/s?tokn=***&a=***"),
        ] {
            assert_eq!(shown(&address.parse().unwrap()), expect);
        }
    }
}
