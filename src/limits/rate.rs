//! How many in which time, as settings say it.

use std::{num::NonZeroU32, str::FromStr, time::Duration};

/// So many requests a period, or no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// No limit.
    Off,
    /// At most so many, replenished evenly over the period.
    Per(NonZeroU32, Duration),
}

/// The longest period: what is counted is kept for so long.
const LONGEST: Duration = Duration::from_secs(31 * 24 * 3600);

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
        if period > LONGEST {
            return Err("must be of 31 days at most".into());
        }
        // One at a time must take some time, or there would be no limit.
        if (period / n.get()).is_zero() { Err(wrong()) } else { Ok(Self::Per(n, period)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        assert_eq!("off".parse(), Ok(Rate::Off));
        assert_eq!(
            "1000/15m".parse(),
            Ok(Rate::Per(NonZeroU32::new(1000).unwrap(), Duration::from_secs(900)))
        );
        for wrong in ["", "0/1m", "10", "10/0s", "-1/1m", "ten/1m", "2000000000/1s", "1/32d"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }
}
