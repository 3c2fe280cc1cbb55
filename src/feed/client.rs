//! The HTTP client of one feed: TLS, proxy and keep-alive as its options say.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{Certificate, Client, ClientBuilder, Identity, Proxy, redirect};

use super::address::Reach;
use super::connection::is_loopback;
use super::policy::{Guard, Policy};
use super::spec::Request;
use crate::error::{Code, Error, Result};

/// A half-open connection is noticed by TCP or HTTP/2 after about a minute, whatever the watchdog says.
const PROBE_EVERY: Duration = Duration::from_secs(30);
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a client serves feeds that come later: certificates that the machine gets meanwhile count after that.
const SHARED_FOR: Duration = Duration::from_secs(60);

/// The clients made lately for feeds that say nothing of their own about TLS and proxies. Each holds all certificates of the machine:
/// a thousand feeds that start together read and keep them once.
static SHARED: Mutex<Vec<PooledClient>> = Mutex::new(Vec::new());

struct PooledClient {
    connect_timeout: Duration,
    /// Whether it passes by the proxy of the environment.
    is_direct: bool,
    /// The policy that guards its addresses, if one does.
    guard: Option<Arc<Policy>>,
    made: Instant,
    client: Client,
}

/// The client of a feed; the files that the options name are read now.
pub(super) async fn client(request: &Request, policy: &Arc<Policy>) -> Result<Client> {
    // Whoever comes first wins; a provider that is there already serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authorities = match &request.tls_ca_file {
        Some(path) => authorities(&pem(path).await?, path)?,
        None => Vec::new(),
    };
    let identity = match &request.tls_client_file {
        Some(path) => Some(Identity::from_pem(&pem(path).await?).map_err(|_| {
            Error::new(Code::File, format!("the file '{}' does not hold a certificate and its key in PEM", path.display()))
        })?),
        None => None,
    };
    let guard = (policy.reach > Reach::Everywhere).then(|| Arc::clone(policy));
    let is_direct = match request.proxy.as_deref() {
        _ if !authorities.is_empty() || identity.is_some() => return build(request, guard, &authorities, identity),
        Some("off") => true,
        Some(_) => return build(request, guard, &[], None),
        None => is_loopback(&request.endpoint.0),
    };
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.retain(|shared| shared.made.elapsed() < SHARED_FOR);
    let known = shared.iter().find(|known| {
        let is_guarded_alike = known.guard.as_ref().map(Arc::as_ptr) == guard.as_ref().map(Arc::as_ptr);
        is_guarded_alike && known.is_direct == is_direct && known.connect_timeout == request.connect_timeout
    });
    if let Some(known) = known {
        return Ok(known.client.clone());
    }
    let client = build(request, guard.clone(), &[], None)?;
    let connect_timeout = request.connect_timeout;
    shared.push(PooledClient { connect_timeout, is_direct, guard, made: Instant::now(), client: client.clone() });
    Ok(client)
}

fn build(
    request: &Request,
    guard: Option<Arc<Policy>>,
    authorities: &[Certificate],
    identity: Option<Identity>,
) -> Result<Client> {
    let builder = |authorities_only: bool| -> Result<ClientBuilder> {
        let mut builder = Client::builder()
            .redirect(redirect::Policy::none())
            .referer(false)
            // Bodies are decoded in `coding.rs`.
            .no_gzip()
            .no_brotli()
            .no_deflate()
            .no_zstd()
            .retry(reqwest::retry::never())
            .connect_timeout(request.connect_timeout)
            .pool_max_idle_per_host(0)
            .tcp_nodelay(true)
            .tcp_keepalive(PROBE_EVERY)
            .http2_adaptive_window(true)
            .http2_keep_alive_interval(PROBE_EVERY)
            .http2_keep_alive_timeout(PROBE_TIMEOUT);
        builder = match authorities_only {
            true => builder.tls_certs_only(authorities.to_vec()),
            false => builder.tls_certs_merge(authorities.to_vec()),
        };
        if let Some(guard) = &guard {
            builder = builder.dns_resolver(Guard(Arc::clone(guard)));
        }
        if let Some(identity) = identity.clone() {
            builder = builder.identity(identity);
        }
        Ok(match request.proxy.as_deref() {
            Some("off") => builder.no_proxy(),
            Some(proxy) => {
                builder.proxy(Proxy::all(proxy).map_err(|_| Error::new(Code::BadOption, "option 'proxy' is no URL of a proxy"))?)
            }
            None if is_loopback(&request.endpoint.0) => builder.no_proxy(),
            None => builder,
        })
    };
    // A machine without certificates of its own can still reach what the user vouches for, and plain http.
    match builder(false)?.build() {
        Ok(client) => Ok(client),
        Err(error) => builder(true)?.build().map_err(|_| failed(&error)),
    }
}

fn failed(error: &reqwest::Error) -> Error {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Error::new(Code::Connect, format!("the HTTP client cannot be set up: {cause}"))
}

async fn pem(path: &Path) -> Result<Vec<u8>> {
    tokio::fs::read(path)
        .await
        .map_err(|error| Error::new(Code::File, format!("the file '{}' cannot be read: {error}", path.display())))
}

fn authorities(pem: &[u8], path: &Path) -> Result<Vec<Certificate>> {
    match Certificate::from_pem_bundle(pem) {
        Ok(authorities) if !authorities.is_empty() => Ok(authorities),
        _ => Err(Error::new(Code::File, format!("the file '{}' holds no certificate in PEM", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::{FeedSource, FeedSpec};
    use super::*;
    use crate::options::{GivenOption, TableOptions};

    async fn made(pairs: &[(&str, &str)], policy: &Arc<Policy>) {
        let given: Vec<GivenOption> =
            pairs.iter().map(|(name, value)| GivenOption { name: (*name).into(), value: (*value).into(), span: None }).collect();
        let FeedSource::Http(request) = FeedSpec::new(&TableOptions::read(&given).unwrap()).unwrap().source else {
            panic!("no request")
        };
        client(&request, policy).await.unwrap();
    }

    #[tokio::test]
    async fn feeds_share_a_client_unless_their_options_or_what_guards_them_differ() {
        // Nobody else's clients have this timeout.
        let timeout = Duration::from_millis(12_345);
        let shared = || SHARED.lock().unwrap().iter().filter(|shared| shared.connect_timeout == timeout).count();
        let feed = |endpoint| [("connector", "sse"), ("endpoint", endpoint), ("connect_timeout", "12345ms")];
        let guarded = |reach| Arc::new(Policy { reach, ..Policy::default() });
        let (open, metadata, other) = (guarded(Reach::Everywhere), guarded(Reach::NoMetadata), guarded(Reach::NoMetadata));
        for (endpoint, policy, expect) in [
            ("https://example.com/a", &open, 1),
            ("https://example.org/b", &guarded(Reach::Everywhere), 1),
            ("http://127.0.0.1/", &open, 2),
            ("https://example.com/a", &metadata, 3),
            ("https://example.org/b", &metadata, 3),
            ("https://example.com/a", &other, 4),
        ] {
            made(&feed(endpoint), policy).await;
            assert_eq!(shared(), expect, "{endpoint}");
        }
        let [connector, endpoint, timeout] = feed("https://example.com/a");
        made(&[connector, endpoint, timeout, ("proxy", "http://proxy.example:3128")], &open).await;
        assert_eq!(shared(), 4);
    }
}
