//! Whom addresses are believed of, and how rates are written.

use std::net::{IpAddr, Ipv6Addr};

use arbitrary::{Result, Unstructured};
use poem::http::{HeaderMap, HeaderValue};

use super::{Rate, address};

/// What stands left of the first hop that is nobody's proxy is never looked at, and nobody else is believed at all.
pub fn forwarded_for(data: &[u8]) {
    let _ = check(&mut Unstructured::new(data));
}

fn check(u: &mut Unstructured<'_>) -> Result<()> {
    let Ok(proxies) = "10.0.0.0/8".parse() else { panic!("no network") };
    let (proxy, stranger) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([203, 0, 113, u.arbitrary()?]));
    let client: IpAddr = match u.arbitrary()? {
        // A documentation prefix, which is no proxy's.
        true => Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(u.arbitrary::<u64>()?)).into(),
        false => [198, 51, 100, u.arbitrary()?].into(),
    };
    let hops = (0..u.int_in_range(0..=3)?).map(|n| format!(", 10.1.{n}.9")).collect::<String>();
    let mut forged = vec![];
    while !u.is_empty() && forged.len() < 4 {
        forged.push(u.arbitrary::<Vec<u8>>()?);
    }
    let asked = |peer: IpAddr, honest: &str| {
        let mut headers = HeaderMap::new();
        let lines =
            forged.iter().map(|line| HeaderValue::from_bytes(line)).filter_map(std::result::Result::ok);
        lines.chain(HeaderValue::from_str(honest)).for_each(|line| {
            headers.append("x-forwarded-for", line);
        });
        address::client(&[proxies], peer, &headers)
    };

    assert_eq!(asked(proxy, &format!("{client}{hops}")), client);
    assert_eq!(asked(stranger, &format!("{client}{hops}")), stranger);
    // A hop that cannot be read ends the chain at the proxy that wrote it.
    assert_eq!(asked(proxy, "nonsense"), proxy);
    Ok(())
}

/// A rate says what was written, and what is read lets in at least one and not endlessly many.
pub fn rate(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(Rate::Per(n, period)) = text.parse() {
        assert!(!(period / n.get()).is_zero(), "{text} is no limit");
    }
    let mut u = Unstructured::new(data);
    let (Ok(n), Ok(seconds)) = (u.arbitrary::<u32>(), u.arbitrary::<u16>()) else { return };
    match format!("{n}/{seconds}s").parse() {
        Ok(Rate::Per(read, period)) => assert_eq!((read.get(), period.as_secs()), (n, seconds.into())),
        Ok(Rate::Off) => panic!("{n}/{seconds}s is off"),
        Err(_) => assert!(n == 0 || u64::from(n) > u64::from(seconds) * 1_000_000_000, "{n}/{seconds}s"),
    }
}
