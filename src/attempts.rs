//! The limit of attempts that name somebody: of signing in and of asking for mails by address, of one's current password.
//!
//! What is counted is who is named, whoever asks and whether there is such a person or not. An attempt that guessed nothing
//! wrong is given back, so only guesses count. They are replenished evenly: whoever is kept out by the guesses of others gets
//! the next attempt within minutes, and sessions that have begun go on.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use tenantry_accounts::{self as accounts, Actor};
use uuid::Uuid;

use crate::{error::ApiError, limits::Rate};

/// So many are remembered at most, in some 50 MB. All that one can do at once is far less, since each is forgotten after a
/// minute or a few; of those beyond it, none is counted.
const MOST: usize = 1_000_000;

/// The limit of attempts, of one process.
pub(crate) struct Attempts {
    limit: Option<Limit>,
    /// From when on times are counted.
    start: Instant,
    /// Until when what was used has been replenished, by who was named. Hashes: no address is kept.
    used: Mutex<HashMap<u128, Duration>>,
}

struct Limit {
    /// One attempt is replenished in this time,
    each: Duration,
    /// and all in this.
    period: Duration,
}

/// What is attempted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum What<'a> {
    /// Signing in to a tenant, by id or slug, with an address.
    SignIn(&'a str, &'a str),
    /// A mail of this kind to an address of a tenant.
    Mail(&'a str, &'a str, &'a str),
    /// What a signed-in user of a tenant is asked their password for.
    OwnPassword(Uuid, Uuid),
    /// A request of this name once more, by somebody who has not signed in.
    Repetition([u8; 32]),
}

/// An attempt that has been counted.
pub(crate) struct Attempt<'a> {
    attempts: &'a Attempts,
    key: u128,
}

impl Attempts {
    pub(crate) fn new(rate: Rate) -> Self {
        let limit = match rate {
            Rate::Off => None,
            Rate::Per(n, period) => Some(Limit { each: period / n.get(), period }),
        };
        Self { limit, start: Instant::now(), used: Mutex::default() }
    }

    /// Counts an attempt, or refuses it.
    pub(crate) fn count(&self, what: What<'_>) -> Result<Attempt<'_>, ApiError> {
        let attempt = Attempt { attempts: self, key: what.key() };
        self.take(attempt.key, self.start.elapsed()).map_err(|wait| {
            metrics::counter!("tenantry_rate_limited_total", "scope" => "login").increment(1);
            ApiError::too_many_attempts(wait)
        })?;
        Ok(attempt)
    }

    /// Does `work`, for which the actor was asked their own password, and counts it.
    pub(crate) async fn with_password<T>(
        &self,
        actor: &Actor,
        work: impl Future<Output = accounts::Result<T>>,
    ) -> Result<accounts::Result<T>, ApiError> {
        let attempt = self.count(What::OwnPassword(actor.home.0, actor.user()?.id.0))?;
        let result = work.await;
        attempt.end(&result);
        Ok(result)
    }

    /// Counts an attempt at the time `now`, or says how long it is until the next. The generic cell rate algorithm.
    fn take(&self, key: u128, now: Duration) -> Result<(), Duration> {
        let Some(Limit { each, period }) = &self.limit else { return Ok(()) };
        let mut used = self.used();
        let until = used.get(&key).map_or(now, |until| now.max(*until)) + *each;
        let wait = until.saturating_sub(now + *period);
        if !wait.is_zero() {
            return Err(wait);
        }
        if used.len() < MOST || used.contains_key(&key) {
            used.insert(key, until);
        }
        Ok(())
    }

    /// Forgets those who have all of their attempts again.
    pub(crate) fn forget(&self) {
        self.forget_at(self.start.elapsed());
    }

    fn forget_at(&self, now: Duration) {
        let mut used = self.used();
        used.retain(|_, until| *until > now);
        used.shrink_to_fit();
    }

    /// Nothing that could panic is done while it is held.
    fn used(&self) -> MutexGuard<'_, HashMap<u128, Duration>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// Gives the attempt back unless a password was guessed, and guessed wrong, be it as a part of a request. Without this it
    /// stays counted: so it is with one that was given up before it was answered.
    pub(crate) fn end<T>(self, result: &accounts::Result<T>) {
        use accounts::Error::{KeyReused, WrongCredentials, WrongPassword};
        if matches!(result, Err(WrongCredentials | WrongPassword | KeyReused)) {
            return;
        }
        if let Some(Limit { each, .. }) = &self.attempts.limit
            && let Some(until) = self.attempts.used().get_mut(&self.key)
        {
            *until = until.saturating_sub(*each);
        }
    }
}

impl What<'_> {
    /// 16 bytes, however long the names are. A tenant may be named by id as well as by slug, so there are twice as many
    /// attempts as were allowed: which names are one tenant's is not known before the database is asked.
    fn key(self) -> u128 {
        let (home, user, name);
        let [what, tenant, whom] = match self {
            Self::SignIn(tenant, email) => ["sign in", tenant, email],
            Self::Mail(kind, tenant, email) => [kind, tenant, email],
            Self::OwnPassword(tenant, id) => {
                (home, user) = (tenant.to_string(), id.to_string());
                ["own password", &home, &user]
            }
            Self::Repetition(of) => {
                name = of.map(|byte| format!("{byte:02x}")).concat();
                ["repetition", "", &name]
            }
        };
        // Ids are read in any case, slugs are not.
        let tenant = Uuid::try_parse(tenant).map_or_else(|_| tenant.to_owned(), |id| id.to_string());
        let hash = Sha256::digest([what, &tenant, whom].join("\0"));
        hash.iter().take(16).fold(0, |key, byte| key << 8 | u128::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn attempts() -> Attempts {
        Attempts::new("3/30s".parse().unwrap())
    }

    #[test]
    fn three_at_once_and_then_one_in_ten_seconds() {
        let attempts = attempts();
        for _ in 0..3 {
            assert_eq!(attempts.take(1, at(100)), Ok(()));
        }
        assert_eq!(attempts.take(1, at(100)), Err(at(10)));
        assert_eq!(attempts.take(2, at(100)), Ok(()), "somebody else");
        // Those that are refused do not count.
        assert_eq!(attempts.take(1, at(109)), Err(at(1)));
        assert_eq!(attempts.take(1, at(110)), Ok(()));
        assert_eq!(attempts.take(1, at(110)), Err(at(10)));
    }

    #[test]
    fn what_was_no_wrong_guess_is_given_back() {
        let attempts = attempts();
        let what = What::SignIn("acme", "ada@example.org");
        for _ in 0..20 {
            attempts.count(what).ok().unwrap().end(&Ok(()));
            attempts.count(what).ok().unwrap().end(&Err::<(), _>(accounts::Error::Busy));
        }
        for _ in 0..2 {
            attempts.count(what).ok().unwrap().end(&Err::<(), _>(accounts::Error::WrongCredentials));
        }
        // Nobody waited for the third.
        let _unanswered = attempts.count(what).ok().unwrap();
        assert!(attempts.count(what).is_err());
    }

    #[test]
    fn who_has_all_attempts_again_is_forgotten() {
        let attempts = attempts();
        attempts.take(1, at(100)).unwrap();
        attempts.take(2, at(105)).unwrap();
        attempts.forget_at(at(111));
        assert_eq!(attempts.used().len(), 1);
        attempts.forget_at(at(115));
        assert_eq!(attempts.used().len(), 0);
    }

    #[test]
    fn another_spelling_of_a_tenant_is_no_other_tenant() {
        let id = Uuid::now_v7().to_string();
        let of = |tenant: &str| What::SignIn(tenant, "ada@example.org").key();
        assert_eq!(of(&id), of(&id.to_uppercase()));
        assert_ne!(of("acme"), of("acme2"));
        assert_ne!(What::SignIn("a", "b").key(), What::Mail("verify_email", "a", "b").key());
        assert_ne!(What::SignIn("a", "b").key(), What::SignIn("ab", "").key());
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let attempts = Attempts::new(Rate::Off);
        for _ in 0..100 {
            assert!(attempts.count(What::SignIn("acme", "ada@example.org")).is_ok());
        }
        assert_eq!(attempts.used().len(), 0);
    }
}
