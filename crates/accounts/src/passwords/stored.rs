//! Hashes that are stored: our own, and those that users bring along from where they were before.

use std::{fmt, str::FromStr};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordVerifier, phc::PasswordHash},
};
use scrypt::Scrypt;

use super::Cost;

/// A hash that can be verified, at a cost that a sign-in may have: an Argon2 or scrypt hash in the PHC string format, or
/// a bcrypt hash in its own (`$2a$`, `$2b$` and `$2y$`). It cannot be printed.
#[derive(Clone)]
pub struct StoredHash {
    text: String,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Argon2(Box<PasswordHash>, Cost),
    Scrypt(Box<PasswordHash>, Mixing),
    /// With two to the power of so many rounds.
    Bcrypt(u32),
}

/// Parameters of scrypt.
#[derive(Clone, Copy)]
struct Mixing {
    log_n: u32,
    r: u32,
    p: u32,
}

/// Why text is no hash that could be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnusableHash {
    /// Another algorithm, or none.
    #[error("must be a hash of Argon2 or scrypt in the PHC string format, or of bcrypt")]
    Unknown,
    /// It says which algorithm it is of, and the rest is not what belongs there.
    #[error("is not a whole hash of the algorithm that it names")]
    Malformed,
    /// Each sign-in would take seconds, or a great deal of memory.
    #[error("costs more than a sign-in may: 256 MiB, 2 GiB filled in all, 2^14 rounds of bcrypt")]
    TooCostly,
}

/// The most a hash may fill, in KiB: a second or two of a processor. Whoever may store hashes could otherwise stop the service
/// with a few sign-ins.
const MOST_WORK: u64 = 2 * 1024 * 1024;
/// The most memory that a hash may need, in bytes.
const MOST_MEMORY: u64 = 256 * 1024 * 1024;
/// What a round of bcrypt is worth in KiB filled, and each KiB that scrypt mixes: by the time they take.
const BCRYPT_ROUND: u64 = 90;
const SCRYPT_KIB: u64 = 4;

/// The same of what the administrators of a tenant may bring, who are anybody: ten times what ours cost, as bcrypt with 2^12 rounds.
/// Many users with hashes that cost a second each would take what others sign in with.
const MOST_WORK_OF_TENANTS: u64 = 400_000;
const MOST_MEMORY_OF_TENANTS: u64 = 64 * 1024 * 1024;

pub(super) fn affordable(work: u64, memory: u64) -> bool {
    work <= MOST_WORK && memory <= MOST_MEMORY
}

impl FromStr for StoredHash {
    type Err = UnusableHash;

    fn from_str(text: &str) -> Result<Self, UnusableHash> {
        let algorithm = text.strip_prefix('$').and_then(|rest| rest.split('$').next());
        let kind = match algorithm {
            Some("argon2id" | "argon2i" | "argon2d") => argon2(phc(text)?)?,
            Some("scrypt") => scrypt(phc(text)?)?,
            Some("2a" | "2b" | "2y") => bcrypt(text)?,
            _ => return Err(UnusableHash::Unknown),
        };
        let hash = Self { text: text.into(), kind };
        if affordable(hash.work(), hash.memory()) { Ok(hash) } else { Err(UnusableHash::TooCostly) }
    }
}

fn phc(text: &str) -> Result<Box<PasswordHash>, UnusableHash> {
    let hash = PasswordHash::new(text).map_err(|_| UnusableHash::Malformed)?;
    let whole = hash.salt.is_some() && hash.hash.is_some();
    if whole { Ok(hash.into()) } else { Err(UnusableHash::Malformed) }
}

fn argon2(hash: Box<PasswordHash>) -> Result<Kind, UnusableHash> {
    let params = Params::try_from(&*hash).map_err(|_| UnusableHash::Malformed)?;
    Algorithm::try_from(hash.algorithm.as_str()).map_err(|_| UnusableHash::Malformed)?;
    hash.version.map(Version::try_from).transpose().map_err(|_| UnusableHash::Malformed)?;
    if !params.keyid().is_empty() {
        // Hashed with a secret that we do not have.
        return Err(UnusableHash::Malformed);
    }
    let cost = Cost { memory: params.m_cost(), passes: params.t_cost(), lanes: params.p_cost() };
    Ok(Kind::Argon2(hash, cost))
}

fn scrypt(hash: Box<PasswordHash>) -> Result<Kind, UnusableHash> {
    let number = |name| hash.params.get_decimal(name).ok_or(UnusableHash::Malformed);
    let mixing = Mixing { log_n: number("ln")?, r: number("r")?, p: number("p")? };
    // Those of scrypt's own type; `new` multiplies before it looks whether it may.
    let small = mixing.log_n < 32 && mixing.r < 1024 && mixing.p < 1024;
    if !small {
        return Err(UnusableHash::TooCostly);
    }
    scrypt::Params::try_from(&*hash).map_err(|_| UnusableHash::Malformed)?;
    if hash.version.is_some() { Err(UnusableHash::Malformed) } else { Ok(Kind::Scrypt(hash, mixing)) }
}

fn bcrypt(text: &str) -> Result<Kind, UnusableHash> {
    let parts: bcrypt::HashParts = text.parse().map_err(|_| UnusableHash::Malformed)?;
    match parts.get_cost() {
        rounds @ 4..=14 => Ok(Kind::Bcrypt(rounds)),
        15..=31 => Err(UnusableHash::TooCostly),
        _ => Err(UnusableHash::Malformed),
    }
}

impl StoredHash {
    /// As it is stored.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether anybody may bring it, or only whoever runs the service.
    pub fn is_modest(&self) -> bool {
        self.work() <= MOST_WORK_OF_TENANTS && self.memory() <= MOST_MEMORY_OF_TENANTS
    }

    /// Whether this is the hash of `password`.
    pub(super) fn is_of(&self, password: &[u8]) -> bool {
        let same = match &self.kind {
            Kind::Argon2(hash, _) => Argon2::default().verify_password(password, &**hash).is_ok(),
            Kind::Scrypt(hash, _) => Scrypt::default().verify_password(password, &**hash).is_ok(),
            // It ends after 72 bytes at the latest, as it did where the hash was made; the one that replaces it does not.
            Kind::Bcrypt(_) => bcrypt::verify(password, &self.text).unwrap_or(false),
        };
        // Nobody has a password with a NUL in it; but bcrypt and scrypt take "secret" and "secret\0" for one. It is hashed
        // nevertheless: an answer that comes at once would tell something.
        same && !password.contains(&0)
    }

    /// Whether it is one of ours and costs as much as `cost`; if not, it is replaced at the next sign-in.
    pub(super) fn is_up_to_date(&self, cost: Cost) -> bool {
        match &self.kind {
            Kind::Argon2(hash, stored) => {
                let long = |bytes: Option<usize>, least| bytes.is_some_and(|bytes| bytes >= least);
                hash.algorithm.as_str() == "argon2id"
                    && hash.version == Some(Version::V0x13.into())
                    && long(hash.salt.as_ref().map(|salt| salt.len()), 16)
                    && long(hash.hash.as_ref().map(|output| output.len()), 32)
                    && cost.is_met_by(*stored)
            }
            Kind::Scrypt(..) | Kind::Bcrypt(_) => false,
        }
    }

    /// What verifying takes, in KiB that Argon2 would fill meanwhile.
    pub(super) fn work(&self) -> u64 {
        match self.kind {
            Kind::Argon2(_, cost) => cost.work(),
            Kind::Scrypt(_, mixing) => {
                (mixing.memory() / 1024 * u64::from(mixing.p)).saturating_mul(SCRYPT_KIB)
            }
            Kind::Bcrypt(rounds) => BCRYPT_ROUND << rounds,
        }
    }

    /// In bytes.
    fn memory(&self) -> u64 {
        match self.kind {
            Kind::Argon2(_, cost) => u64::from(cost.memory) * 1024,
            Kind::Scrypt(_, mixing) => mixing.memory(),
            Kind::Bcrypt(_) => 4096,
        }
    }
}

impl Mixing {
    fn memory(self) -> u64 {
        (128 * u64::from(self.r)) << self.log_n
    }
}

impl fmt::Debug for StoredHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoredHash(..)")
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    const PASSWORD: &[u8] = b"Correct-Horse-1";

    /// Made by argon2-cffi, Python's hashlib and its bcrypt.
    const MADE_ELSEWHERE: [&str; 11] = [
        "$argon2id$v=19$m=8192,t=1,p=1$bJrOAJc8n2UWNy1Pbm5ZyQ$IMR/En+eB08OkG1W1a6KSL+k/wZNy/bzHARTPpaoI5Q",
        "$argon2id$v=19$m=65536,t=4,p=1$m88a5WRLNFlXJDp/FZC7aA$fshHuPafCbWoF+UsGB65ZRQ6tq/58w1XSaGLaAJGy90",
        "$argon2i$v=19$m=16384,t=2,p=1$skJwCzSsZG0liv/gFL5oew$l2rvBtnTigQ0RRc+2w8G5wf3+mRP3CTY28DJc+TLRN8",
        "$argon2d$v=19$m=16384,t=2,p=2$xdDKskCJa6aEY8ksB3IdPA$zrzaTMaX3gzi9pYiQKsFSaabPc0gf1Sl9pd3LgYFj44",
        "$argon2i$v=16$m=16384,t=2,p=1$08tAZtnxAudJXfnQmANWTw$eoWbR2+AywuxmkXq6wn/QuTKBwPubNffJhMmZd9Cpfw",
        "$argon2id$v=19$m=19456,t=2,p=1$/2nVtiHiDhU$Edao24/nC6jVURe/Om+b6w",
        "$scrypt$ln=14,r=8,p=1$YBwHEMFiGrW0NVhQOxFQlg$cfO1Zl2HMTl+Twn5S/BV589aOuekrkShhTTjkkThQTg",
        "$scrypt$ln=13,r=8,p=2$XZb0fApwHmf/c4le9/zfzw$dZmUBzAAHd5V2oQ2WAZWGYO8iyIvaA3HZBE3IRQ0RnUT3D9OPsQOVDwPjpFIIbevmXci5IAjhYiVX/Ib8RiPJA",
        "$2b$06$aDw1YUC4A8yAdfSJMGRAcuuVfZZY6.FNLOzZbayeKWRd.ssX8QXOu",
        "$2y$06$aDw1YUC4A8yAdfSJMGRAcuuVfZZY6.FNLOzZbayeKWRd.ssX8QXOu",
        "$2a$06$8Zw3d/kMKikXY1AS6tkPNOLrDr/4FNmLLG0L7vbvPCxYyb.5W3Hvy",
    ];

    fn parsed(text: &str) -> StoredHash {
        text.parse().unwrap_or_else(|unusable| panic!("{text}: {unusable}"))
    }

    #[test]
    fn hashes_that_others_made_are_verified() {
        for text in MADE_ELSEWHERE {
            let hash = parsed(text);
            assert_eq!(hash.as_str(), text);
            assert!(hash.is_of(PASSWORD), "{text}");
            for other in
                [&b"Correct-Horse-2"[..], b"", b"Correct-Horse-1\0", b"Correct-Horse-1\0Correct-Horse-1"]
            {
                assert!(!hash.is_of(other), "{text}");
            }
            assert_eq!(format!("{hash:?}"), "StoredHash(..)");
        }
    }

    #[test]
    fn a_password_of_bcrypt_ends_where_it_ended_when_it_was_hashed() {
        let long = parsed("$2b$06$qawCatxZLehtleoJgw5IFeXlr088cSvC.84DgtrUsxtTb11iB6v0S");
        let password = PASSWORD.repeat(10);
        assert!(long.is_of(&password) && long.is_of(&password[..72]));
        assert!(!long.is_of(&password[..71]));
    }

    #[test]
    fn what_costs_too_much_is_refused() {
        let (salt, output) = ("bJrOAJc8n2UWNy1Pbm5ZyQ", "IMR/En+eB08OkG1W1a6KSL+k/wZNy/bzHARTPpaoI5Q");
        for parameters in [
            "argon2id$v=19$m=4194304,t=1,p=1",
            "argon2id$v=19$m=262145,t=1,p=1",
            "argon2id$v=19$m=4294967295,t=4294967295,p=1",
            "argon2i$v=19$m=8,t=4294967295,p=1",
            "argon2d$v=19$m=65536,t=33,p=4",
            "scrypt$ln=30,r=8,p=1",
            "scrypt$ln=18,r=16,p=1",
            "scrypt$ln=31,r=1023,p=1023",
            "scrypt$ln=255,r=8,p=1",
            "scrypt$ln=14,r=4294967295,p=4294967295",
            "scrypt$ln=10,r=8,p=1023",
        ] {
            let text = format!("${parameters}${salt}${output}");
            assert_eq!(text.parse::<StoredHash>().err(), Some(UnusableHash::TooCostly), "{text}");
        }
        for cost in [15, 31] {
            let text = format!("$2b${cost}$aDw1YUC4A8yAdfSJMGRAcuuVfZZY6.FNLOzZbayeKWRd.ssX8QXOu");
            assert_eq!(text.parse::<StoredHash>().err(), Some(UnusableHash::TooCostly), "{text}");
        }
        for usual in [
            "argon2id$v=19$m=102400,t=2,p=8",
            "argon2id$v=19$m=65536,t=3,p=4",
            "argon2id$v=19$m=262144,t=3,p=1",
            "scrypt$ln=17,r=8,p=1",
            "scrypt$ln=14,r=8,p=5",
        ] {
            parsed(&format!("${usual}${salt}${output}"));
        }
        parsed("$2b$14$aDw1YUC4A8yAdfSJMGRAcuuVfZZY6.FNLOzZbayeKWRd.ssX8QXOu");
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        for unknown in [
            "",
            "$",
            "Correct-Horse-1",
            "5f4dcc3b5aa765d61d8327deb882cf99",
            "$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/",
            "$2x$06$aDw1YUC4A8yAdfSJMGRAcuuVfZZY6.FNLOzZbayeKWRd.ssX8QXOu",
            "$argon2$v=19$m=8192,t=1,p=1$bJrOAJc8n2UWNy1Pbm5ZyQ$IMR/En+eB08OkG1W1a6KSL+k/wZNy/bzHARTPpaoI5Q",
        ] {
            assert_eq!(unknown.parse::<StoredHash>().err(), Some(UnusableHash::Unknown), "{unknown}");
        }
        for malformed in [
            "$argon2id$",
            "$argon2id$v=19$m=8192,t=1,p=1",
            "$argon2id$v=19$m=8192,t=1,p=1$bJrOAJc8n2UWNy1Pbm5ZyQ",
            "$argon2id$v=18$m=8192,t=1,p=1$bJrOAJc8n2UWNy1Pbm5ZyQ$IMR/En+eB08OkG1W1a6KSL+k/wZNy/bzHARTPpaoI5Q",
            "$argon2id$v=19$m=8,t=1,p=2$bJrOAJc8n2UWNy1Pbm5ZyQ$IMR/En+eB08OkG1W1a6KSL+k/wZNy/bzHARTPpaoI5Q",
            "$argon2id$v=19$m=8192,t=0,p=1$bJrOAJc8n2UWNy1Pbm5ZyQ$IMR/En+eB08OkG1W1a6KSL+k/wZNy/bzHARTPpaoI5Q",
            "$argon2id$v=19$m=8192,t=1,p=1$not base64!$IMR/En+eB08OkG1W1a6KSL+k/wZNy/bzHARTPpaoI5Q",
            "$scrypt$ln=14,r=8$YBwHEMFiGrW0NVhQOxFQlg$cfO1Zl2HMTl+Twn5S/BV589aOuekrkShhTTjkkThQTg",
            "$scrypt$ln=14,r=0,p=1$YBwHEMFiGrW0NVhQOxFQlg$cfO1Zl2HMTl+Twn5S/BV589aOuekrkShhTTjkkThQTg",
            "$2b$03$aDw1YUC4A8yAdfSJMGRAcuuVfZZY6.FNLOzZbayeKWRd.ssX8QXOu",
            "$2b$06$aDw1YUC4A8yAdfSJMGRAcuuVfZZY6.FNLOzZbayeKWRd.ssX8QXO",
            "$2b$06$aDw1YUC4A8yAdfSJMGRAcuuVfZZY6.FNLOzZbayeKWRd.ssX8QXO\u{e9}",
        ] {
            assert_eq!(malformed.parse::<StoredHash>().err(), Some(UnusableHash::Malformed), "{malformed}");
        }
    }

    #[test]
    fn only_what_is_as_good_as_new_stays() {
        for text in MADE_ELSEWHERE {
            let kept = text.starts_with("$argon2id$v=19$m=65536,t=4");
            assert_eq!(parsed(text).is_up_to_date(Cost::default()), kept, "{text}");
        }
        let own = parsed(&super::super::hash("Correct-Horse-1", Cost::default()).unwrap());
        assert!(own.is_of(PASSWORD) && own.is_up_to_date(Cost::default()));
        for raised in ["m=19457,t=2,p=1", "m=19456,t=3,p=1", "m=19456,t=2,p=2"] {
            assert!(!own.is_up_to_date(raised.parse().unwrap()), "{raised}");
        }
    }
}
