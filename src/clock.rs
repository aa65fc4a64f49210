//! The time as tokens and JSON have it, as often as there are requests.

use std::{
    cell::Cell,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chrono::{DateTime, Utc};

/// `2026-11-27T08:24:48`.
type Text = [u8; 19];

thread_local! {
    /// The second that was written last: of a thousand times in it only the first is worked out.
    static SECOND: Cell<(u64, Text)> = const { Cell::new((u64::MAX, [b'0'; 19])) };
}

/// How long ago 1970 began.
pub(crate) fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The present time in Unix seconds.
pub(crate) fn unix() -> i64 {
    i64::try_from(since_1970().as_secs()).unwrap_or(i64::MAX)
}

/// The present time as RFC 3339 has it, to so many digits of a second.
pub(crate) fn now<const DIGITS: usize>() -> impl AsRef<[u8]> {
    let now = since_1970();
    let mut text = Time { bytes: [b'0'; 32], length: 21 + DIGITS };
    text.bytes[..19].copy_from_slice(&second(now.as_secs()));
    text.bytes[19] = b'.';
    let mut rest = now.subsec_nanos() / 10_u32.pow(9 - DIGITS as u32);
    for digit in text.bytes[20..20 + DIGITS].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    text.bytes[20 + DIGITS] = b'Z';
    text
}

struct Time {
    bytes: [u8; 32],
    length: usize,
}

impl AsRef<[u8]> for Time {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn second(second: u64) -> Text {
    let (known, text) = SECOND.get();
    if known == second {
        return text;
    }
    let time = i64::try_from(second).ok().and_then(|second| DateTime::<Utc>::from_timestamp(second, 0));
    let written = time.unwrap_or_default().format("%Y-%m-%dT%H:%M:%S").to_string();
    // Until the year 9999.
    let text = written.as_bytes().try_into().unwrap_or([b'0'; 19]);
    SECOND.set((second, text));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_time_and_has_all_its_digits() {
        for _ in 0..1_000 {
            let before = Utc::now();
            let (millis, micros) = (now::<3>(), now::<6>());
            let after = Utc::now();
            let text = std::str::from_utf8(micros.as_ref()).unwrap();
            assert_eq!((text.len(), millis.as_ref().len()), (27, 24));
            let time = DateTime::parse_from_rfc3339(text).unwrap().to_utc();
            assert!(before.timestamp_micros() <= time.timestamp_micros(), "{text}");
            assert!(time <= after, "{text}");
        }
    }
}
