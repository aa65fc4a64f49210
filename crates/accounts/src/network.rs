//! Where somebody came from, as far as it is remembered.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

/// The network of an address: enough to tell home from abroad, and not whose device it was. The first 24 bits of an IPv4
/// address, the first 48 of an IPv6 one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpAddr);

impl Network {
    /// The network of `address`.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                Self(IpAddr::from([a, b, c, 0]))
            }
            IpAddr::V6(v6) => Self(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 80)).into()),
        }
    }

    /// One that was written as PostgreSQL does.
    pub(crate) fn stored(text: &str) -> Option<Self> {
        text.split('/').next()?.parse().ok().map(Self::of)
    }
}

/// As PostgreSQL writes it, too: `203.0.113.0/24`.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = if self.0.is_ipv4() { 24 } else { 48 };
        write!(f, "{}/{bits}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_hides_the_device() {
        let of = |text: &str| Network::of(text.parse().unwrap()).to_string();
        assert_eq!(of("203.0.113.77"), "203.0.113.0/24");
        assert_eq!(of("::ffff:203.0.113.77"), "203.0.113.0/24");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1::/48");
        for text in ["203.0.113.0/24", "2001:db8:1::/48"] {
            assert_eq!(Network::stored(text).unwrap().to_string(), text);
        }
    }
}
