//! Who a request is really from, where proxies stand between: only those that the settings name are believed.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::HeaderMap;
use axum::http::header::FORWARDED;
use serde::de::{self, Deserialize, Deserializer};

use super::settings::Words;

/// Addresses and networks, as `10.0.0.1` or `10.0.0.0/8`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<(IpAddr, u32)>);

impl Networks {
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|(net, length)| match (net, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                (u32::from(*net) ^ u32::from(address)).checked_shr(32 - length).unwrap_or(0) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => {
                (u128::from(*net) ^ u128::from(address)).checked_shr(128 - length).unwrap_or(0) == 0
            }
            _ => false,
        })
    }

    fn read(text: &str) -> Result<(IpAddr, u32), String> {
        let wrong = || format!("'{text}' is neither an address nor a network; write it like 10.0.0.1 or 10.0.0.0/8");
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address = address.trim_matches(['[', ']']).parse::<IpAddr>().map_err(|_| wrong())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        match length.map_or(Ok(bits), str::parse) {
            Ok(length) if length <= bits => Ok((address, length)),
            _ => Err(wrong()),
        }
    }
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let words = Words::deserialize(from)?.0;
        words.iter().map(|word| Networks::read(word)).collect::<Result<_, _>>().map(Networks).map_err(de::Error::custom)
    }
}

/// The proxies that are believed. Clones share them.
#[derive(Clone, Default)]
pub struct Proxies(Arc<RwLock<Networks>>);

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Proxies {
    pub fn set(&self, trusted: &Networks) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = trusted.clone();
    }

    pub fn trusts(&self, address: IpAddr) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(address)
    }

    /// The address that a request came from: the last one that no trusted proxy vouches for. Whatever stands before that one may be
    /// made up.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        for told in chain(headers).into_iter().rev() {
            if !self.trusts(client) {
                break;
            }
            match address(&told) {
                Some(address) => client = address,
                None => break,
            }
        }
        client
    }
}

/// The addresses that proxies have noted, the nearest last: those of `X-Forwarded-For`, else those of `Forwarded` (RFC 7239).
fn chain(headers: &HeaderMap) -> Vec<String> {
    let lines = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).map(|part| part.trim().to_string()).collect()
    };
    let noted = lines("x-forwarded-for");
    if !noted.is_empty() {
        return noted;
    }
    let of = |element: &str| {
        let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))
            .map(|(_, value)| value.trim().trim_matches('"').to_string())
    };
    lines(FORWARDED.as_str()).iter().map(|element| of(element).unwrap_or_default()).collect()
}

/// An address as proxies write it, with a port or without: `192.0.2.1:80`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim_matches('"');
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None if text.matches(':').count() == 1 => text.split(':').next()?,
        None => text,
    };
    bare.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// Whose limits an address counts against: of IPv6, where one customer has a whole network, that network.
pub fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::from((u128::from(address) >> 64 << 64).to_be_bytes()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn networks(text: &str) -> Result<Networks, String> {
        text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(Networks::read).collect::<Result<_, _>>().map(Networks)
    }

    #[test]
    fn a_client_is_who_trusted_proxies_say() {
        let proxies = Proxies::default();
        proxies.set(&networks("10.0.0.0/8, 127.0.0.1, fd00::/8").unwrap());
        for (peer, headers, expect) in [
            ("192.0.2.9", &[("x-forwarded-for", "192.0.2.1")][..], "192.0.2.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &[("x-forwarded-for", "192.0.2.1")], "192.0.2.1"),
            ("::ffff:10.0.0.1", &[("x-forwarded-for", "192.0.2.1")], "192.0.2.1"),
            // What the client itself has sent stands before, and is not believed.
            ("10.0.0.1", &[("x-forwarded-for", "127.0.0.1, 192.0.2.1")], "192.0.2.1"),
            ("10.0.0.1", &[("x-forwarded-for", "198.51.100.1, 192.0.2.1, 10.0.0.2")], "192.0.2.1"),
            ("10.0.0.1", &[("x-forwarded-for", "198.51.100.1"), ("x-forwarded-for", "192.0.2.1")], "192.0.2.1"),
            ("10.0.0.1", &[("x-forwarded-for", "192.0.2.1:4711, [fd00::1]:80")], "192.0.2.1"),
            ("10.0.0.1", &[("x-forwarded-for", "unknown")], "10.0.0.1"),
            ("10.0.0.1", &[("x-forwarded-for", "")], "10.0.0.1"),
            ("fd00::1", &[("forwarded", "for=\"[2001:db8::1]:80\";proto=https")], "2001:db8::1"),
            ("127.0.0.1", &[("forwarded", "for=198.51.100.1, By=x; For=192.0.2.1")], "192.0.2.1"),
            ("127.0.0.1", &[("forwarded", "for=_hidden")], "127.0.0.1"),
            ("127.0.0.1", &[("forwarded", "for=192.0.2.1"), ("x-forwarded-for", "192.0.2.2")], "192.0.2.2"),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            let client = proxies.client(peer.parse().unwrap(), &map);
            assert_eq!(client.to_string(), expect, "{peer} {headers:?}");
        }
    }

    #[test]
    fn a_network_is_written_with_its_length() {
        let all = networks("0.0.0.0/0").unwrap();
        assert!(all.contains([192, 0, 2, 1].into()) && !all.contains("::1".parse().unwrap()));
        assert!(networks("::/0").unwrap().contains("2001:db8::1".parse().unwrap()));
        for wrong in ["10.0.0", "10.0.0.0/33", "example.com", "::/129", "10.0.0.0/x"] {
            assert!(networks(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_network_of_ipv6_is_one_neighbour() {
        for (address, expect) in
            [("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"), ("::ffff:192.0.2.1", "192.0.2.1"), ("192.0.2.1", "192.0.2.1")]
        {
            assert_eq!(neighbourhood(address.parse().unwrap()).to_string(), expect);
        }
    }
}
