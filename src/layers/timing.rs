//! How long an answer took, and what of that: `X-Process-Time` and `Server-Timing`.

use std::time::Duration;

use poem::http::{HeaderMap, HeaderName, HeaderValue};
use tenantry_trace::Work;

const PROCESS_TIME: HeaderName = HeaderName::from_static("x-process-time");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

/// Notes that an answer took so long; what for, if whoever asked may know. Nobody else does: how long the database was busy
/// would tell whether there is an account.
pub(crate) fn note(headers: &mut HeaderMap, took: Duration, parts: Option<&Work>) {
    let took = micros(took);
    let mut seconds = String::with_capacity(16);
    fraction::<6>(&mut seconds, took);
    if let Ok(seconds) = HeaderValue::try_from(seconds) {
        headers.insert(PROCESS_TIME, seconds);
    }
    let mut timing = String::with_capacity(64);
    timing.push_str("total;dur=");
    fraction::<3>(&mut timing, took);
    if let Some(work) = parts {
        if let Some(level) = headers.get(X_CACHE).and_then(|level| level.to_str().ok()) {
            timing.push_str(", cache;desc=");
            timing.push_str(level);
        }
        let database = work.in_database();
        if database > Duration::ZERO {
            timing.push_str(", db;dur=");
            fraction::<3>(&mut timing, micros(database));
        }
    }
    if let Ok(timing) = HeaderValue::try_from(timing) {
        headers.insert(SERVER_TIMING, timing);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Writes a number with so many of its digits behind the point.
fn fraction<const DIGITS: usize>(text: &mut String, mut number: u64) {
    // As many as there are.
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    let point = at - DIGITS;
    while number > 0 || at >= point {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    let (whole, behind) = digits.split_at(point);
    text.extend(whole[at..].iter().map(|digit| char::from(*digit)));
    text.push('.');
    text.extend(behind.iter().map(|digit| char::from(*digit)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_has_all_its_digits() {
        let written = |number| {
            let mut text = String::new();
            fraction::<3>(&mut text, number);
            text
        };
        assert_eq!([0, 7, 1_000, 61_234_567].map(written), ["0.000", "0.007", "1.000", "61234.567"]);
        assert_eq!(written(u64::MAX), "18446744073709551.615");
    }
}
