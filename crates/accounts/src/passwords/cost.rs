//! What a hash of ours costs: a setting, which may be raised at any time.

use std::{fmt, str::FromStr};

use argon2::{Algorithm, Argon2, Params, Version};

use super::stored;
use crate::{Error, Result};

/// Parameters of Argon2id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// In KiB.
    pub(super) memory: u32,
    pub(super) passes: u32,
    pub(super) lanes: u32,
}

/// The least that OWASP's cheat sheet on password storage allows: memory in KiB and passes, each row as good as another.
const LEAST: [(u32, u32); 5] = [(47_104, 1), (19_456, 2), (12_288, 3), (9_216, 4), (7_168, 5)];

impl Default for Cost {
    fn default() -> Self {
        Self { memory: 19_456, passes: 2, lanes: 1 }
    }
}

impl FromStr for Cost {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || "must look like m=19456,t=2,p=1: KiB of memory, passes, lanes".to_owned();
        let mut parts = text.split(',').map(|part| part.trim().split_once('='));
        let mut next = |name: &str| match parts.next() {
            Some(Some((found, value))) if found == name => value.parse::<u32>().map_err(|_| wrong()),
            _ => Err(wrong()),
        };
        let cost = Self { memory: next("m")?, passes: next("t")?, lanes: next("p")? };
        if parts.next().is_some() || Params::new(cost.memory, cost.passes, cost.lanes, None).is_err() {
            return Err(wrong());
        }
        if !LEAST.iter().any(|&(memory, passes)| cost.memory >= memory && cost.passes >= passes) {
            return Err("is less than OWASP allows: m=19456,t=2,p=1 is enough".into());
        }
        // What is stored must be taken back.
        if !stored::affordable(cost.work(), u64::from(cost.memory) * 1024) {
            return Err("is more than a sign-in may cost: m=262144 and m times t=2097152 at most".into());
        }
        Ok(cost)
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m={},t={},p={}", self.memory, self.passes, self.lanes)
    }
}

impl Cost {
    /// In KiB that are filled.
    pub(super) fn work(self) -> u64 {
        u64::from(self.memory) * u64::from(self.passes)
    }

    /// Whether `other` is as good in each respect.
    pub(super) fn is_met_by(self, other: Self) -> bool {
        other.memory >= self.memory && other.passes >= self.passes && other.lanes >= self.lanes
    }

    pub(super) fn argon2(self) -> Result<Argon2<'static>> {
        let params = Params::new(self.memory, self.passes, self.lanes, None);
        let params = params.map_err(|_| Error::Internal("these parameters of Argon2 do not exist"))?;
        Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_is_read_between_the_least_and_the_most() {
        assert_eq!("m=19456,t=2,p=1".parse(), Ok(Cost::default()));
        assert_eq!(Cost::default().to_string(), "m=19456,t=2,p=1");
        for good in ["m=7168,t=5,p=1", "m=47104, t=1, p=1", "m=65536,t=3,p=4", "m=262144,t=8,p=1"] {
            assert!(good.parse::<Cost>().is_ok(), "{good}");
        }
        for wrong in [
            "",
            "m=19456",
            "m=19456,t=2,p=1,",
            "t=2,m=19456,p=1",
            "m=19455,t=2,p=1",
            "m=19456,t=1,p=1",
            "m=19456,t=2,p=0",
            "m=8,t=100000,p=1",
            "m=262145,t=2,p=1",
            "m=262144,t=9,p=1",
            "m=4294967296,t=2,p=1",
            "m=19456,t=2,p=-1",
        ] {
            assert!(wrong.parse::<Cost>().is_err(), "{wrong}");
        }
    }
}
