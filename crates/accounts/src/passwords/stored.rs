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

/// The most a hash may fill, in KiB: about a second of a processor. Whoever may store hashes could otherwise stop the service
/// with a few sign-ins.
const MOST_WORK: u64 = 2 * 1024 * 1024;
/// The most memory that a hash may need, in bytes.
const MOST_MEMORY: u64 = 256 * 1024 * 1024;
/// What a round of bcrypt is worth in KiB filled, and each KiB that scrypt mixes: by the time they take.
const BCRYPT_ROUND: u64 = 110;
const SCRYPT_KIB: u64 = 5;

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

    /// Whether this is the hash of `password`.
    pub(super) fn is_of(&self, password: &[u8]) -> bool {
        match &self.kind {
            Kind::Argon2(hash, _) => Argon2::default().verify_password(password, &**hash).is_ok(),
            Kind::Scrypt(hash, _) => Scrypt::default().verify_password(password, &**hash).is_ok(),
            Kind::Bcrypt(_) => {
                // Where the hash was made, the password ended at its first NUL and after 72 bytes at the latest. The latter has
                // to be so here as well; of the former nobody has a password, and "secret" must not match "secret\0secret".
                // It is hashed nevertheless: an answer that comes at once would tell whose hash is of bcrypt.
                let of_it = bcrypt::verify(password, &self.text).unwrap_or(false);
                of_it && !password.contains(&0)
            }
        }
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
            Kind::Scrypt(_, mixing) => (mixing.memory() / 1024 * u64::from(mixing.p)).saturating_mul(SCRYPT_KIB),
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
