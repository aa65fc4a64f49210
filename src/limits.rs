//! Limits of requests: governor in each process. Requests without a valid credential are counted by client address.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    str::FromStr,
    time::Duration,
};

use governor::{
    NotUntil, Quota, RateLimiter,
    clock::{Clock, DefaultClock, QuantaInstant},
    middleware::{StateInformationMiddleware, StateSnapshot},
    state::{InMemoryState, NotKeyed, keyed::DashMapStateStore},
};
use ipnet::IpNet;
use poem::http::{HeaderMap, HeaderName, HeaderValue};

use crate::error::ApiError;

/// So many requests a period, or no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// No limit.
    Off,
    /// At most so many, replenished evenly over the period.
    Per(NonZeroU32, Duration),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let wrong = || "must look like 1000/15m, or be off".to_owned();
        let (n, period) = text.split_once('/').ok_or_else(wrong)?;
        let n: NonZeroU32 = n.trim().parse().map_err(|_| wrong())?;
        let period = humantime::parse_duration(period.trim()).map_err(|_| wrong())?;
        // One at a time must take some time, or there would be no limit.
        if (period / n.get()).is_zero() { Err(wrong()) } else { Ok(Self::Per(n, period)) }
    }
}

/// Addresses are counted as numbers: 16 bytes a client, however long a header it sends.
type Limiter = RateLimiter<u128, DashMapStateStore<u128>, DefaultClock, StateInformationMiddleware>;

/// The limit by client address.
pub(crate) struct Limits {
    by_address: Option<Limit>,
    trusted: Vec<IpNet>,
}

struct Limit {
    limiter: Limiter,
    policy: Policy,
}

/// A limit as it is told to clients.
struct Policy {
    name: &'static str,
    quota: NonZeroU32,
    period: Duration,
    header: HeaderValue,
}

impl Policy {
    fn new(name: &'static str, quota: NonZeroU32, period: Duration) -> Option<(Self, Quota)> {
        let header = format!("\"{name}\";q={quota};w={}", period.as_secs().max(1));
        let policy = Self { name, quota, period, header: HeaderValue::try_from(header).ok()? };
        Some((policy, Quota::with_period(period / quota.get())?.allow_burst(quota)))
    }

    /// What a decision means for the client.
    fn tell(
        &self,
        decision: Result<StateSnapshot, NotUntil<QuantaInstant>>,
    ) -> (Option<Allowance>, Result<(), ApiError>) {
        match decision {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let used = self.quota.get().saturating_sub(remaining);
                (self.allowance(remaining, self.period / self.quota.get() * used), Ok(()))
            }
            Err(refusal) => {
                metrics::counter!("tenantry_rate_limited_total", "scope" => self.name).increment(1);
                let wait = refusal.wait_time_from(DefaultClock::default().now());
                (self.allowance(0, wait), Err(ApiError::too_many(self.name, seconds(wait))))
            }
        }
    }

    fn allowance(&self, remaining: u32, wait: Duration) -> Option<Allowance> {
        let state = format!("\"{}\";r={remaining};t={}", self.name, seconds(wait));
        Some(Allowance { policy: self.header.clone(), state: HeaderValue::try_from(state).ok()? })
    }
}

/// The limit of one API key.
pub(crate) struct KeyLimit(
    Option<(RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>, Policy)>,
);

impl KeyLimit {
    pub(crate) fn per_minute(requests: i32) -> Self {
        let quota = u32::try_from(requests).ok().and_then(NonZeroU32::new);
        let limit = quota.and_then(|quota| Policy::new("api_key", quota, Duration::from_secs(60)));
        Self(limit.map(|(policy, quota)| {
            (RateLimiter::direct(quota).with_middleware::<StateInformationMiddleware>(), policy)
        }))
    }

    /// Counts a request.
    pub(crate) fn count(&self) -> (Option<Allowance>, Result<(), ApiError>) {
        let Some((limiter, policy)) = &self.0 else { return (None, Ok(())) };
        policy.tell(limiter.check())
    }
}

/// What a client has left, for the headers of draft-ietf-httpapi-ratelimit-headers-11.
pub(crate) struct Allowance {
    policy: HeaderValue,
    state: HeaderValue,
}

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");

impl Allowance {
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        headers.insert(POLICY, self.policy);
        headers.insert(STATE, self.state);
    }
}

impl Limits {
    pub(crate) fn new(by_address: Rate, trusted: Vec<IpNet>) -> Self {
        let limit = |n: NonZeroU32, period: Duration| {
            let (policy, quota) = Policy::new("ip", n, period)?;
            let limiter = RateLimiter::dashmap(quota).with_middleware::<StateInformationMiddleware>();
            Some(Limit { limiter, policy })
        };
        let by_address = match by_address {
            Rate::Off => None,
            Rate::Per(n, period) => limit(n, period),
        };
        Self { by_address, trusted }
    }

    /// Counts a request without a valid credential.
    pub(crate) fn count(&self, client: IpAddr) -> (Option<Allowance>, Result<(), ApiError>) {
        let Some(limit) = &self.by_address else { return (None, Ok(())) };
        limit.policy.tell(limit.limiter.check_key(&bucket(client)))
    }

    /// Forgets clients whose allowance is whole again: the map would otherwise grow with each address ever seen.
    pub(crate) fn forget(&self) {
        if let Some(limit) = &self.by_address {
            limit.limiter.retain_recent();
            limit.limiter.shrink_to_fit();
        }
    }

    /// The client's address: the last hop that is not a trusted proxy. What a client writes into X-Forwarded-For
    /// itself stands left of that and never counts. (poem's RealIp believes any client.)
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let trusted = |address: IpAddr| self.trusted.iter().any(|net| net.contains(&address));
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
}

fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
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
    match client {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits() & (u128::MAX << 64) | 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits::new("2/1m".parse().unwrap(), vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()])
    }

    fn client(peer: &str, forwarded: &[&str]) -> IpAddr {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append("x-forwarded-for", poem::http::HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        limits().client(peer.parse().unwrap(), &headers)
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
        let of = |text: &str| bucket(canonical(text.parse().unwrap()));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn the_third_of_two_is_refused_and_told_when() {
        let limits = limits();
        let client = "192.0.2.1".parse().unwrap();
        assert!(limits.count(client).1.is_ok());
        assert!(limits.count(client).1.is_ok());
        let (allowance, refused) = limits.count(client);
        assert!(refused.is_err());
        let allowance = allowance.unwrap();
        assert_eq!(allowance.policy, "\"ip\";q=2;w=60");
        assert_eq!(allowance.state, "\"ip\";r=0;t=30");
        assert!(limits.count("192.0.2.2".parse().unwrap()).1.is_ok());
    }

    #[test]
    fn rates_are_read() {
        assert_eq!("off".parse(), Ok(Rate::Off));
        assert_eq!(
            "1000/15m".parse(),
            Ok(Rate::Per(NonZeroU32::new(1000).unwrap(), Duration::from_secs(900)))
        );
        for wrong in ["", "0/1m", "10", "10/0s", "-1/1m", "ten/1m", "2000000000/1s"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }
}
