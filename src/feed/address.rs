//! Which addresses are no place for a feed of strangers: the special-purpose registries of IANA, and addresses that stand for others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses that feeds may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    Everywhere,
    /// All but link-local ones, those where clouds tell machines their secrets, and those that no feed can be at.
    NoMetadata,
    /// Only what is global: nor private ones, nor this machine.
    Public,
}

/// Networks of IPv4 as address, bits, and the mildest rule that refuses them. After the registry of RFC 6890 at IANA; multicast is
/// RFC 5771.
const NETS_V4: [([u8; 4], u32, Reach); 21] = [
    ([0, 0, 0, 0], 8, Reach::Public),
    ([10, 0, 0, 0], 8, Reach::Public),
    // Alibaba's metadata, within what carriers share.
    ([100, 100, 100, 200], 32, Reach::NoMetadata),
    ([100, 64, 0, 0], 10, Reach::Public),
    ([127, 0, 0, 0], 8, Reach::Public),
    // Azure's metadata, at an address that looks global.
    ([168, 63, 129, 16], 32, Reach::NoMetadata),
    // Metadata of most clouds.
    ([169, 254, 0, 0], 16, Reach::NoMetadata),
    ([172, 16, 0, 0], 12, Reach::Public),
    // Protocol assignments, among them Oracle's metadata at .192.
    ([192, 0, 0, 0], 24, Reach::NoMetadata),
    ([192, 0, 2, 0], 24, Reach::Public),
    ([192, 31, 196, 0], 24, Reach::Public),
    ([192, 52, 193, 0], 24, Reach::Public),
    // Relays of 6to4, which may lead anywhere.
    ([192, 88, 99, 0], 24, Reach::NoMetadata),
    ([192, 168, 0, 0], 16, Reach::Public),
    ([192, 175, 48, 0], 24, Reach::Public),
    ([198, 18, 0, 0], 15, Reach::Public),
    ([198, 51, 100, 0], 24, Reach::Public),
    ([203, 0, 113, 0], 24, Reach::Public),
    ([224, 0, 0, 0], 4, Reach::Public),
    ([255, 255, 255, 255], 32, Reach::Public),
    // Reserved since 1989.
    ([240, 0, 0, 0], 4, Reach::NoMetadata),
];

/// Networks of IPv6 in the same way. What is outside of 2000::/3 and not here is not assigned, and refused by `Public`.
const NETS_V6: [([u16; 8], u32, Reach); 14] = [
    // Where AWS and Google tell machines their secrets.
    ([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, Reach::NoMetadata),
    ([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, Reach::NoMetadata),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, Reach::NoMetadata),
    // Site-local, which is no more (RFC 3879).
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, Reach::NoMetadata),
    // A translator of this network, whatever it translates to (RFC 8215).
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, Reach::NoMetadata),
    // Teredo and 6to4: tunnels to an IPv4 address.
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, Reach::NoMetadata),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, Reach::NoMetadata),
    // Protocol assignments: benchmarks, ORCHID and more.
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, Reach::Public),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, Reach::Public),
    ([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48, Reach::Public),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, Reach::Public),
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, Reach::Public),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, Reach::Public),
    // IPv4-compatible, which is no more (RFC 4291 2.5.5.1).
    ([0, 0, 0, 0, 0, 0, 0, 0], 96, Reach::NoMetadata),
];

/// The mildest rule that refuses an address: by what it is, or by an IPv4 address that it stands for.
pub(super) fn refused_by(address: IpAddr) -> Option<Reach> {
    match plain(address) {
        IpAddr::V4(address) => of_v4(address),
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            let known = NETS_V6.iter().find(|(net, length, _)| (bits ^ u128::from(Ipv6Addr::from(*net))) >> (128 - length) == 0);
            let own = known.map(|(.., rule)| *rule).or_else(|| (bits >> 125 != 0b001).then_some(Reach::Public));
            hidden(address).and_then(of_v4).into_iter().chain(own).min()
        }
    }
}

fn of_v4(address: Ipv4Addr) -> Option<Reach> {
    let bits = u32::from(address);
    let known = NETS_V4.iter().find(|(net, length, _)| (bits ^ u32::from(Ipv4Addr::from(*net))) >> (32 - length) == 0);
    known.map(|(.., rule)| *rule)
}

/// The IPv4 address that an IPv6 one stands for (mapped, or translated on the way: RFC 6052), if it does and nothing else.
pub(super) fn plain(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if matches!(address.segments()[..6], [0x64, 0xff9b, 0, 0, 0, 0] | [0, 0, 0, 0, 0xffff, 0]) => {
            let [.., a, b, c, d] = address.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        address => address,
    }
}

/// The IPv4 address at the end of a tunnel that an IPv6 address names: 6to4, Teredo (whose bits are turned over), ISATAP.
fn hidden(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0x2002, high, low, ..] => Some(of(high, low)),
        [0x2001, 0, .., high, low] => Some(of(!high, !low)),
        [.., 0 | 0x200, 0x5efe, high, low] => Some(of(high, low)),
        _ => None,
    }
}

/// The mildest rule that refuses a name before it is resolved.
pub(super) fn name_refused_by(name: &str) -> Option<Reach> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    match name.as_str() {
        "metadata" | "metadata.google.internal" | "instance-data" => Some(Reach::NoMetadata),
        _ => (name == "localhost" || name.ends_with(".localhost")).then_some(Reach::Public),
    }
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::super::policy::Policy;
    use super::*;

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
            ("localhost.", Some(Reach::Public)),
            // Where clouds tell secrets, besides 169.254.169.254.
            ("192.0.0.192", Some(Reach::NoMetadata)),
            ("100.100.100.200", Some(Reach::NoMetadata)),
            ("168.63.129.16", Some(Reach::NoMetadata)),
            ("[fd20:ce::254]", Some(Reach::NoMetadata)),
            ("instance-data", Some(Reach::NoMetadata)),
            // Each network of the registries, at both of its ends, and what stands beside it.
            ("0.255.255.255", Some(Reach::Public)),
            ("1.0.0.0", None),
            ("9.255.255.255", None),
            ("11.0.0.0", None),
            ("100.63.255.255", None),
            ("100.127.255.255", Some(Reach::Public)),
            ("100.128.0.0", None),
            ("126.255.255.255", None),
            ("127.255.255.255", Some(Reach::Public)),
            ("128.0.0.0", None),
            ("172.15.255.255", None),
            ("172.31.255.255", Some(Reach::Public)),
            ("172.32.0.0", None),
            ("192.0.0.255", Some(Reach::NoMetadata)),
            ("192.0.1.0", None),
            ("192.0.2.1", Some(Reach::Public)),
            ("192.31.196.1", Some(Reach::Public)),
            ("192.52.193.1", Some(Reach::Public)),
            ("192.88.99.1", Some(Reach::NoMetadata)),
            ("192.175.48.1", Some(Reach::Public)),
            ("198.17.255.255", None),
            ("198.18.0.0", Some(Reach::Public)),
            ("198.19.255.255", Some(Reach::Public)),
            ("198.20.0.0", None),
            ("198.51.100.1", Some(Reach::Public)),
            ("203.0.113.1", Some(Reach::Public)),
            ("223.255.255.255", None),
            ("224.0.0.1", Some(Reach::Public)),
            ("239.255.255.255", Some(Reach::Public)),
            ("240.0.0.1", Some(Reach::NoMetadata)),
            ("255.255.255.255", Some(Reach::Public)),
            ("[2000::1]", None),
            ("[2001::1]", Some(Reach::NoMetadata)),
            ("[2001:1ff:ffff::]", Some(Reach::Public)),
            ("[2001:2::1]", Some(Reach::Public)),
            ("[2001:10::1]", Some(Reach::Public)),
            ("[2001:20::1]", Some(Reach::Public)),
            ("[2001:200::1]", None),
            ("[2001:db8::1]", Some(Reach::Public)),
            ("[2001:db9::1]", None),
            ("[2620:4f:8000::1]", Some(Reach::Public)),
            ("[3fff::1]", Some(Reach::Public)),
            ("[3fff:1000::1]", None),
            ("[4000::1]", Some(Reach::Public)),
            ("[100::1]", Some(Reach::Public)),
            ("[5f00::1]", Some(Reach::Public)),
            ("[fec0::1]", Some(Reach::NoMetadata)),
            ("[feff::1]", Some(Reach::NoMetadata)),
            ("[febf::1]", Some(Reach::NoMetadata)),
            ("[ff02::1]", Some(Reach::Public)),
            ("[::]", Some(Reach::Public)),
            // IPv4 addresses in others' clothes.
            ("[::ffff:127.0.0.1]", Some(Reach::Public)),
            ("[::ffff:0:127.0.0.1]", Some(Reach::Public)),
            ("[::ffff:93.184.216.34]", None),
            ("[::127.0.0.1]", Some(Reach::NoMetadata)),
            ("[::93.184.216.34]", Some(Reach::NoMetadata)),
            ("[64:ff9b::10.0.0.1]", Some(Reach::Public)),
            ("[64:ff9b::93.184.216.34]", None),
            ("[64:ff9b:1::1]", Some(Reach::NoMetadata)),
            ("[64:ff9b:2::1]", Some(Reach::Public)),
            ("[2002:7f00:1::]", Some(Reach::NoMetadata)),
            ("[2002:5db8:d822::1]", Some(Reach::NoMetadata)),
            ("[2001:0:5ef5:79fd::5601:5601]", Some(Reach::NoMetadata)),
            ("[2606:2800::5efe:169.254.169.254]", Some(Reach::NoMetadata)),
            ("[2606:2800::200:5efe:10.0.0.1]", Some(Reach::Public)),
            // Spellings.
            ("0177.0.0.1", Some(Reach::Public)),
            ("0x7f.1", Some(Reach::Public)),
            ("2130706433", Some(Reach::Public)),
            ("017700000001", Some(Reach::Public)),
            ("127.0.0.1.", Some(Reach::Public)),
            ("127%2e0.0.1", Some(Reach::Public)),
            ("\u{2460}\u{2461}\u{2466}.\u{24ea}.0.1", Some(Reach::Public)),
            ("\u{ff11}\u{ff10}.0.0.1", Some(Reach::Public)),
            ("10\u{3002}0\u{3002}0\u{3002}1", Some(Reach::Public)),
            ("l\u{ff4f}calhost", Some(Reach::Public)),
            ("[0:0:0:0:0:0:0:1]", Some(Reach::Public)),
            ("a.LOCALHOST", Some(Reach::Public)),
        ] {
            for reach in [Reach::Everywhere, Reach::NoMetadata, Reach::Public] {
                let policy = Policy { reach, ..Policy::default() };
                let checked = policy.check_url(&Url::parse(&format!("http://{host}:8080/x")).unwrap());
                assert_eq!(checked.is_err(), refused_by.is_some_and(|refuses| refuses <= reach), "{host} {reach:?}");
            }
        }
    }

    #[test]
    fn a_proxy_is_read_as_a_server_of_http_is() {
        for (proxy, refused) in [
            ("socks5://127.1:1080", true),
            ("socks5h://2130706433", true),
            ("socks5://0x7f000001:1", true),
            ("socks5h://[::1]:1080", true),
            ("socks5://[2002:7f00:1::]:1080", true),
            ("socks5h://LOCALHOST:1", true),
            ("socks5h://proxy.example:1080", false),
        ] {
            let policy = Policy { reach: Reach::Public, ..Policy::default() };
            assert_eq!(policy.check_url(&Url::parse(proxy).unwrap()).is_err(), refused, "{proxy}");
        }
    }
}
