//! What feeds may use and reach, as the operator of a server sets it: variables, hosts, files. By default everything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::error::{Code, Error, Result};

/// Rules for the feeds of others than the operator. A host is checked when a table is made, its addresses with each connection, and
/// so is the target of a redirect. What goes through a proxy is resolved by the proxy: then only what is written can be checked.
#[derive(Debug, Clone)]
pub struct Policy {
    pub variables: Variables,
    /// Names that nobody may use, whatever `variables` says: those of the server's own secrets.
    pub reserved: fn(&str) -> bool,
    pub reach: Reach,
    /// Exceptions from `reach`: host names, `*.example.com` for all names below one, or addresses.
    pub allow_hosts: Vec<String>,
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

/// The addresses that feeds may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    Everywhere,
    /// All but link-local ones and those where clouds tell machines their secrets.
    NoMetadata,
    /// Nor private ones, nor this machine.
    Public,
}

/// Allows everything.
impl Default for Policy {
    fn default() -> Self {
        Policy { variables: Variables::All, reserved: |_| false, reach: Reach::Everywhere, allow_hosts: Vec::new(), files: true }
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

    pub(super) fn check_files(&self, option: &str) -> Result<()> {
        match self.files {
            true => Ok(()),
            false => Err(Error::new(Code::NotAllowed, format!("option '{option}': feeds may not read files here"))
                .hint("have them allowed by the setting 'feeds.files'")),
        }
    }

    /// What a URL says by itself: an address, or a name that is known for what it stands for.
    pub(super) fn check_url(&self, url: &Url) -> Result<()> {
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_address(&address.to_string(), address.into()),
            Some(Host::Ipv6(address)) => self.check_address(&address.to_string(), address.into()),
            // A proxy's URL may be of a scheme whose addresses are not read as such.
            Some(Host::Domain(name))
                if name.parse::<IpAddr>().is_ok_and(|address| self.check_address(name, address).is_err()) =>
            {
                Err(refused(name))
            }
            Some(Host::Domain(name)) => match name_refused_by(name) {
                Some(refuses) if refuses <= self.reach && !self.is_exception(name) => Err(refused(name)),
                _ => Ok(()),
            },
            None => Ok(()),
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
        let address = plain(address);
        match refused_by(address).is_none_or(|refuses| refuses > self.reach)
            || self.is_exception(host)
            || self.is_exception(&address.to_string())
        {
            true => Ok(()),
            false => Err(refused(host)),
        }
    }

    fn is_exception(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.');
        self.allow_hosts.iter().any(|allowed| match allowed.strip_prefix("*.") {
            Some(domain) => {
                let rest = host.len().checked_sub(domain.len() + 1).and_then(|at| host.get(at..));
                rest.is_some_and(|rest| rest.starts_with('.') && rest[1..].eq_ignore_ascii_case(domain))
            }
            None => host.eq_ignore_ascii_case(allowed.trim_matches(['[', ']'])),
        })
    }
}

fn refused(host: &str) -> Error {
    Error::new(
        Code::NotAllowed,
        format!("the host '{host}' may not be reached from here: its address is private, or of this network only"),
    )
    .hint("have it allowed by the setting 'feeds.allow_hosts'")
}

/// The mildest rule that refuses an address.
fn refused_by(address: IpAddr) -> Option<Reach> {
    match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            if address.is_link_local() {
                return Some(Reach::NoMetadata);
            }
            let shared = first == 100 && (64..128).contains(&second);
            let internal = address.is_private() || address.is_loopback() || first == 0 || shared;
            (internal || address.is_multicast() || address.is_broadcast()).then_some(Reach::Public)
        }
        IpAddr::V6(address) => {
            if address.is_unicast_link_local() || address == METADATA {
                return Some(Reach::NoMetadata);
            }
            let internal = address.is_unique_local() || address.is_loopback() || address.is_unspecified();
            (internal || address.is_multicast()).then_some(Reach::Public)
        }
    }
}

/// Where one cloud's machines find their secrets over IPv6; over IPv4 the address is link-local everywhere.
const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// The mildest rule that refuses a name before it is resolved.
fn name_refused_by(name: &str) -> Option<Reach> {
    let name = name.trim_end_matches('.');
    match name {
        "metadata" | "metadata.google.internal" => Some(Reach::NoMetadata),
        _ => (name == "localhost" || name.ends_with(".localhost")).then_some(Reach::Public),
    }
}

/// The IPv4 address that an IPv6 one stands for (mapped, or translated on the way: RFC 6052), if it does.
fn plain(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if address.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0] => {
            let [.., a, b, c, d] = address.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        address => address,
    }
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
    fn each_rule_refuses_its_addresses() {
        for (host, refused_by) in [
            ("93.184.216.34", None),
            ("[2606:2800:220:1::]", None),
            ("example.com", None),
            ("169.254.169.254", Some(Reach::NoMetadata)),
            ("[::ffff:169.254.169.254]", Some(Reach::NoMetadata)),
            ("[64:ff9b::a9fe:a9fe]", Some(Reach::NoMetadata)),
            ("[fe80::1]", Some(Reach::NoMetadata)),
            ("[fd00:ec2::254]", Some(Reach::NoMetadata)),
            // Other spellings of an address, which the URL parser knows.
            ("2852039166", Some(Reach::NoMetadata)),
            ("0xa9.0xfe.0xa9.0xfe", Some(Reach::NoMetadata)),
            ("metadata.google.internal", Some(Reach::NoMetadata)),
            ("metadata.google.internal.", Some(Reach::NoMetadata)),
            ("127.0.0.1", Some(Reach::Public)),
            ("127.1", Some(Reach::Public)),
            ("0.0.0.0", Some(Reach::Public)),
            ("10.1.2.3", Some(Reach::Public)),
            ("192.168.0.1", Some(Reach::Public)),
            ("100.64.0.1", Some(Reach::Public)),
            ("[::1]", Some(Reach::Public)),
            ("[fd12::1]", Some(Reach::Public)),
            ("localhost", Some(Reach::Public)),
            ("a.LOCALHOST", Some(Reach::Public)),
        ] {
            for reach in [Reach::Everywhere, Reach::NoMetadata, Reach::Public] {
                let checked = policy(reach, &[]).check_url(&Url::parse(&format!("http://{host}:8080/x")).unwrap());
                assert_eq!(checked.is_err(), refused_by.is_some_and(|refuses| refuses <= reach), "{host} {reach:?}");
            }
        }
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
}
