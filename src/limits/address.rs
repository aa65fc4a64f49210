//! Whom to believe about a client's address, and which addresses are one client.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use poem::http::HeaderMap;

/// The client's address: the last hop that is not a trusted proxy. What a client writes into X-Forwarded-For itself stands left
/// of that and never counts, nor does `Forwarded`. (poem's RealIp believes any client.)
pub(super) fn client(trusted: &[IpNet], peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
    let mut client = canonical(peer);
    if !trusted(client) {
        return client;
    }
    let lines: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
    for line in lines.iter().rev() {
        for hop in line.as_bytes().rsplit(|byte| *byte == b',') {
            // A hop that cannot be read ends the chain: nothing left of it was vouched for.
            let Some(address) = std::str::from_utf8(hop).ok().and_then(hop_address) else {
                return client;
            };
            client = address;
            if !trusted(client) {
                return client;
            }
        }
    }
    client
}

fn hop_address(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let address = hop.parse::<IpAddr>().ok();
    let with_port = || hop.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    let bracketed = || hop.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    address.or_else(with_port).or_else(bracketed).map(canonical)
}

/// IPv4 in IPv6 clothes is IPv4.
pub(crate) fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// One bucket for an IPv4 address, and one for a /64, which is what one subscriber gets of IPv6.
pub(crate) fn bucket(client: IpAddr) -> u128 {
    match canonical(client) {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits() & (u128::MAX << 64) | 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, forwarded: &[&str]) -> IpAddr {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append("x-forwarded-for", poem::http::HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        super::client(&trusted, peer.parse().unwrap(), &headers)
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let is = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(client("203.0.113.9", &["198.51.100.1"]), is("203.0.113.9"));
        assert_eq!(client("10.0.0.1", &["198.51.100.1"]), is("198.51.100.1"));
        assert_eq!(client("10.0.0.1", &["6.6.6.6, 198.51.100.1, 10.0.0.2"]), is("198.51.100.1"));
        assert_eq!(client("10.0.0.1", &["6.6.6.6", "198.51.100.1"]), is("198.51.100.1"));
        assert_eq!(client("10.0.0.1", &["198.51.100.1, nonsense"]), is("10.0.0.1"));
        assert_eq!(client("::ffff:10.0.0.1", &["198.51.100.1:4711"]), is("198.51.100.1"));
        assert_eq!(client("10.0.0.1", &["[2001:db8::1]:80"]), is("2001:db8::1"));
        assert_eq!(client("10.0.0.1", &["\u{e9}, 198.51.100.1"]), is("198.51.100.1"));
        assert_eq!(client("10.0.0.1", &[]), is("10.0.0.1"));
    }

    #[test]
    fn a_subscriber_has_one_bucket() {
        let of = |text: &str| bucket(text.parse().unwrap());
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
