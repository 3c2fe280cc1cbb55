//! What feeds may use and reach, as the operator of a server sets it: variables, hosts, files. By default everything.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use super::address::{Reach, name_refused_by, plain, refused_by};
use crate::error::{Code, Error, Result};

/// Rules for the feeds of others than the operator. A host is checked when a table is made, its addresses with each connection, and
/// so is the target of a redirect. What goes through a proxy is resolved by the proxy: then only what is written can be checked.
#[derive(Debug, Clone)]
pub struct Policy {
    pub variables: Variables,
    /// Variables that only these hosts may get, written as in `allow_hosts`; a variable that is not here is bound to none.
    pub bound: BTreeMap<String, Vec<String>>,
    /// Values of variables that are not in the environment, or stand over it.
    pub values: SecretValues,
    /// Names that nobody may use, whatever `variables` says: those of the server's own secrets.
    pub reserved: fn(&str) -> bool,
    pub reach: Reach,
    /// Exceptions from `reach`: host names, `*.example.com` for all names below one, or addresses.
    pub allow_hosts: Vec<String>,
    /// Single sockets that are exceptions, too: those of the program's own feeds.
    pub own: Vec<SocketAddr>,
    /// Whether feeds may read files: the connector `file`, certificates.
    pub files: bool,
}

/// The names that may stand in `{{ NAME }}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variables {
    All,
    /// These; one that ends with `*` is the beginning of names.
    Only(Vec<String>),
}

/// Values of variables, by name. Clones share them: a feed finds what is here when it connects. `Debug` shows none.
#[derive(Debug, Clone, Default)]
pub struct SecretValues(Arc<RwLock<BTreeMap<String, SecretString>>>);

impl SecretValues {
    /// Puts these in the place of all there are.
    pub fn set(&self, values: BTreeMap<String, SecretString>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = values;
    }

    pub(super) fn get(&self, name: &str) -> Option<String> {
        let values = self.0.read().unwrap_or_else(PoisonError::into_inner);
        values.get(name).map(|value| value.expose_secret().to_string())
    }
}

/// Allows everything.
impl Default for Policy {
    fn default() -> Self {
        Policy {
            variables: Variables::All,
            bound: BTreeMap::new(),
            values: SecretValues::default(),
            reserved: |_| false,
            reach: Reach::Everywhere,
            allow_hosts: Vec::new(),
            own: Vec::new(),
            files: true,
        }
    }
}

impl Policy {
    pub fn check_variable(&self, name: &str) -> Result<()> {
        let allowed = match &self.variables {
            Variables::All => true,
            Variables::Only(names) => names.iter().any(|known| match known.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning),
                None => name == known,
            }),
        };
        match allowed && !(self.reserved)(name) {
            true => Ok(()),
            false => Err(Error::new(Code::NotAllowed, format!("the variable {name} may not be used here"))
                .hint("use one that the setting 'secrets.env' allows, or have it allowed there")),
        }
    }

    /// Whether a host may get the value of a variable. Asked when a feed is made, and again with every connection and redirect.
    pub(super) fn check_bound(&self, name: &str, url: &Url) -> Result<()> {
        let Some(hosts) = self.bound.get(name) else { return Ok(()) };
        let host = url.host_str().unwrap_or_default();
        match fits_any(hosts, host) {
            true => Ok(()),
            false => Err(Error::new(Code::NotAllowed, format!("the variable {name} may not be sent to the host '{host}'"))
                .hint(format!("it is for {}; see the setting 'secrets.bind'", hosts.join(", ")))),
        }
    }

    pub(super) fn check_files(&self, option: &str) -> Result<()> {
        match self.files {
            true => Ok(()),
            false => Err(Error::new(Code::NotAllowed, format!("option '{option}': feeds may not read files here"))
                .hint("have them allowed by the setting 'feeds.files'")),
        }
    }

    /// What a URL says by itself: an address in any spelling, or a name that is known for what it stands for.
    pub(super) fn check_url(&self, url: &Url) -> Result<()> {
        let host = match url.host() {
            // The URL of a proxy may be of a scheme whose hosts are not read as those of http are.
            Some(Host::Domain(name)) => {
                Url::parse(&format!("http://{name}/")).ok().and_then(|url| url.host().map(|host| host.to_owned()))
            }
            other => other.map(|host| host.to_owned()),
        };
        match host {
            Some(Host::Ipv4(address)) => self.check_socket(address.into(), url.port_or_known_default()),
            Some(Host::Ipv6(address)) => self.check_socket(address.into(), url.port_or_known_default()),
            Some(Host::Domain(name)) => match name_refused_by(&name) {
                Some(refuses) if refuses <= self.reach && !self.is_exception(&name) => Err(refused(&name)),
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// An address that is written out, with its port.
    fn check_socket(&self, address: IpAddr, port: Option<u16>) -> Result<()> {
        match self.own.iter().any(|own| own.ip() == address && Some(own.port()) == port) {
            true => Ok(()),
            false => self.check_address(&address.to_string(), address),
        }
    }

    /// The addresses of a host that may be reached.
    fn check_addresses(&self, host: &str, mut addresses: Vec<std::net::SocketAddr>) -> Result<Vec<std::net::SocketAddr>> {
        let came = !addresses.is_empty();
        addresses.retain(|address| self.check_address(host, address.ip()).is_ok());
        match came && addresses.is_empty() {
            true => Err(refused(host)),
            false => Ok(addresses),
        }
    }

    fn check_address(&self, host: &str, address: IpAddr) -> Result<()> {
        match refused_by(address).is_none_or(|refuses| refuses > self.reach)
            || self.is_exception(host)
            || self.is_exception(&plain(address).to_string())
        {
            true => Ok(()),
            false => Err(refused(host)),
        }
    }

    fn is_exception(&self, host: &str) -> bool {
        fits_any(&self.allow_hosts, host)
    }
}

/// Whether a host is one of these: names, `*.example.com` for all names below one, or addresses.
fn fits_any(allowed: &[String], host: &str) -> bool {
    let host = host.trim_end_matches('.').trim_matches(['[', ']']);
    allowed.iter().any(|allowed| match allowed.strip_prefix("*.") {
        Some(domain) => {
            let rest = host.len().checked_sub(domain.len() + 1).and_then(|at| host.get(at..));
            rest.is_some_and(|rest| rest.starts_with('.') && rest[1..].eq_ignore_ascii_case(domain))
        }
        None => host.eq_ignore_ascii_case(allowed.trim_matches(['[', ']'])),
    })
}

fn refused(host: &str) -> Error {
    Error::new(
        Code::NotAllowed,
        format!("the host '{host}' may not be reached from here: its address is private, reserved, or of this network only"),
    )
    .hint("have it allowed by the setting 'feeds.allow_hosts'")
}

/// Resolves names to the addresses that a policy lets through.
pub(super) struct Guard(pub(super) Arc<Policy>);

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = Arc::clone(&self.0);
        Box::pin(async move {
            // The port is put in by who connects.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed = policy.check_addresses(name.as_str(), found)?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(reach: Reach, allow_hosts: &[&str]) -> Policy {
        Policy { reach, allow_hosts: allow_hosts.iter().map(|host| host.to_string()).collect(), ..Policy::default() }
    }

    #[test]
    fn exceptions_are_names_addresses_and_all_below_a_name() {
        for (host, allowed, expect) in [
            ("10.0.0.7", "10.0.0.7", true),
            ("10.0.0.7", "10.0.0.70", false),
            ("[::1]", "::1", true),
            ("[::1]", "[::1]", true),
            ("LocalHost", "localhost", true),
            ("a.localhost", "*.localhost", true),
            ("localhost", "*.localhost", false),
            ("alocalhost.localhost", "*.host", false),
        ] {
            let checked = policy(Reach::Public, &[allowed]).check_url(&Url::parse(&format!("http://{host}/")).unwrap());
            assert_eq!(checked.is_ok(), expect, "{host} {allowed} {checked:?}");
        }
    }

    #[test]
    fn of_a_host_with_many_addresses_those_that_are_allowed_remain() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<std::net::SocketAddr>>();
        let (inside, outside) = ("10.0.0.1:0", "93.184.216.34:0");
        let check = |allow: &[&str], found: &[&str]| policy(Reach::Public, allow).check_addresses("h.example", addresses(found));
        assert_eq!(check(&[], &[inside, outside]).unwrap(), addresses(&[outside]));
        let error = check(&[], &[inside]).unwrap_err();
        assert_eq!(error.code(), Code::NotAllowed);
        assert!(error.to_string().contains("'h.example'") && error.to_string().contains("feeds.allow_hosts"), "{error}");
        assert_eq!(check(&["h.example"], &[inside]).unwrap(), addresses(&[inside]));
        assert_eq!(check(&["10.0.0.1"], &[inside]).unwrap(), addresses(&[inside]));
    }

    #[tokio::test]
    async fn a_name_is_refused_for_what_it_resolves_to_and_the_client_tells_so() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client =
            |policy: Policy| reqwest::Client::builder().no_proxy().dns_resolver(Guard(Arc::new(policy))).build().unwrap();
        let refused = client(policy(Reach::Public, &[])).get("http://localhost:1/").send().await.unwrap_err();
        let own = super::super::connection::own_error(&refused).expect("the guard's own error");
        assert_eq!(own.code(), Code::NotAllowed);
        let allowed = client(policy(Reach::Public, &["localhost"])).get("http://localhost:1/").send().await.unwrap_err();
        assert!(super::super::connection::own_error(&allowed).is_none(), "{allowed:?}");
    }

    #[test]
    fn variables_are_allowed_by_name_or_beginning() {
        let names = ["STREAMGAUGE_SECRET_*".to_string(), "SSE_TOKEN".to_string()];
        let policy = Policy { variables: Variables::Only(names.into()), ..Policy::default() };
        for (name, expect) in
            [("STREAMGAUGE_SECRET_A", true), ("SSE_TOKEN", true), ("SSE_TOKENS", false), ("AWS_SECRET_ACCESS_KEY", false)]
        {
            assert_eq!(policy.check_variable(name).is_ok(), expect, "{name}");
        }
        assert!(Policy::default().check_variable("ANY").is_ok());
    }

    #[test]
    fn a_variable_is_bound_to_its_hosts() {
        let hosts = vec!["api.example.com".to_string(), "*.internal.example".to_string(), "::1".to_string()];
        let policy = Policy { bound: [("TOKEN".to_string(), hosts)].into(), ..Policy::default() };
        for (url, expect) in [
            ("https://api.example.com/x", true),
            ("https://API.example.com.:8443/x", true),
            ("https://a.internal.example/", true),
            ("http://[::1]:8080/", true),
            ("https://internal.example/", false),
            ("https://api.example.com.evil.example/", false),
            ("https://api.example.com@evil.example/", false),
            ("https://evil.example/api.example.com", false),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(policy.check_bound("TOKEN", &url).is_ok(), expect, "{url}");
            assert!(policy.check_bound("OTHER", &url).is_ok());
        }
    }

    #[test]
    fn a_single_socket_can_be_an_exception() {
        let policy = Policy { own: vec!["127.0.0.1:4711".parse().unwrap()], ..policy(Reach::Public, &[]) };
        for (url, expect) in [
            ("http://127.0.0.1:4711/", true),
            ("http://127.0.0.1:4712/", false),
            ("http://127.0.0.1/", false),
            ("http://127.0.0.2:4711/", false),
            ("http://localhost:4711/", false),
        ] {
            assert_eq!(policy.check_url(&Url::parse(url).unwrap()).is_ok(), expect, "{url}");
        }
    }
}
