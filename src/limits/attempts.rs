//! The limit of attempts that name somebody: of signing in and of asking for mails by address, of one's current password.
//! And of sign-ups, which name an address of the network.
//!
//! What is counted is who is named, whoever asks and whether there is such a person or not. An attempt that guessed nothing
//! wrong is given back, so only guesses count. They are replenished evenly: whoever is kept out by the guesses of others gets
//! the next attempt within minutes, and sessions that have begun go on.
//!
//! Redis counts them for all processes together, one question an attempt. While it does not answer each process lets its share
//! of the rate in, out of what it knows.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tenantry_accounts::{self as accounts, Actor, UserId};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    Rate,
    address::bucket,
    bounded::Bounded,
    global::{Cells, Global, Known, Question, Silence, Taken, Told, Unused, digest, name},
    policy::{self, Policy},
};
use crate::error::ApiError;

/// The limits of attempts, as a process keeps them.
pub(crate) struct Attempts {
    global: Arc<Global>,
    login: Option<Cells>,
    register: Option<Cells>,
    /// From when on times are counted.
    start: Instant,
    /// By who was named. Hashes: no address is kept.
    known: Bounded<Known>,
}

/// What is attempted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum What<'a> {
    /// Signing in to a tenant, by id or slug, with an address.
    SignIn(&'a str, &'a str),
    /// Asking for a mail to an address of a tenant: to choose another password,
    Forgot(&'a str, &'a str),
    /// to prove the address.
    Resend(&'a str, &'a str),
    /// What a signed-in user of a tenant is asked their password for.
    OwnPassword(Uuid, Uuid),
    /// A request of this name once more, by somebody who has not signed in.
    Repetition([u8; 32]),
    /// A sign-up from an address.
    SignUp(IpAddr),
}

/// An attempt that has been counted.
pub(crate) struct Attempt {
    attempts: Arc<Attempts>,
    what: &'static str,
    key: u128,
    cells: Option<Cells>,
    /// What Redis has counted; else it was counted here.
    taken: Option<Taken>,
}

impl Attempts {
    pub(super) fn new(global: Arc<Global>, login: Rate, register: Rate) -> Self {
        let start = Instant::now();
        Self { global, login: cells(login), register: cells(register), start, known: Bounded::new() }
    }

    /// Counts an attempt, or refuses it.
    pub(crate) async fn count(self: &Arc<Self>, what: What<'_>) -> Result<Attempt, ApiError> {
        let (limit, key) = (what.limit(), what.key());
        let cells = match what {
            What::SignUp(_) => self.register,
            _ => self.login,
        };
        let mut attempt = Attempt { attempts: self.clone(), what: limit, key, cells, taken: None };
        let Some(cells) = cells else { return Ok(attempt) };
        let taken = self.global.wait(self.clone().take(limit, key, cells)).await.flatten();
        let by = if taken.is_some() { "redis" } else { "process" };
        metrics::counter!("tenantry_limit_decisions_total", "scope" => what.scope(), "by" => by).increment(1);
        let waits = match taken {
            Some(taken) if taken.count > 0 => None,
            Some(taken) => Some(taken.wait),
            None => self.take_here(key, cells).err(),
        };
        attempt.taken = taken;
        match waits {
            None => Ok(attempt),
            Some(wait) => {
                policy::refused(what.scope());
                Err(ApiError::too_many_attempts(wait))
            }
        }
    }

    /// Counts a sign-up of whoever has this address. On a socket that has no addresses all are let in.
    pub(crate) async fn count_sign_up(
        self: &Arc<Self>,
        address: Option<IpAddr>,
    ) -> Result<Option<Attempt>, ApiError> {
        match address {
            Some(address) => self.count(What::SignUp(address)).await.map(Some),
            None => Ok(None),
        }
    }

    /// Does `work`, for which the actor was asked their own password, and counts it.
    pub(crate) async fn with_password<T>(
        self: &Arc<Self>,
        actor: &Actor,
        work: impl Future<Output = accounts::Result<T>>,
    ) -> Result<accounts::Result<T>, ApiError> {
        let UserId(user) = actor.user()?.id;
        let attempt = self.count(What::OwnPassword(actor.home.0, user)).await?;
        let result = work.await;
        attempt.end(&result).await;
        Ok(result)
    }

    /// Asks Redis for one, and gives it back if the answer comes too late for whoever wants it: they were let in, or not, by what
    /// this process knows.
    fn take(
        self: Arc<Self>,
        limit: &'static str,
        key: u128,
        cells: Cells,
    ) -> oneshot::Receiver<Option<Taken>> {
        let (tell, told) = oneshot::channel();
        tokio::spawn(tenantry_trace::carried(async move {
            let taken = self.ask(limit, key, cells, 1, &[]).await;
            if let Err(Some(taken)) = tell.send(taken) {
                self.ask(limit, key, cells, 0, &[taken.unused(taken.count)]).await;
            }
        }));
        told
    }

    async fn ask(&self, limit: &str, key: u128, cells: Cells, want: u32, unused: &[Unused]) -> Option<Taken> {
        let replicas = self.global.replicas();
        // What is owed is told once, however many ask at the same time. What those who share a place know is nobody's own.
        let told = self.known.update_own(key, |known| match known {
            Some(mut known) => (known.tell(cells, replicas, self.start.elapsed()), Some(known)),
            None => (Told::default(), None),
        });
        let (name, tell) = (name(limit, key), told.unwrap_or_default());
        let taken = self.global.take(Question { name: &name, cells, want, told: tell, unused }).await;
        self.known.update_own(key, |known| {
            let mut known = known.unwrap_or_default();
            match &taken {
                Ok(taken) => known.learn(taken, cells, replicas, self.start.elapsed()),
                Err(silence) => {
                    known.not_told(told.unwrap_or_default());
                    if *silence == Silence::NotAsked {
                        known.not_given_back(unused);
                    }
                }
            }
            ((), Some(known))
        });
        taken.ok()
    }

    fn take_here(&self, key: u128, cells: Cells) -> Result<(), Duration> {
        self.known.update(key, |known| {
            let mut known = known.unwrap_or_default();
            (known.take(cells, self.global.replicas(), self.start.elapsed()), Some(known))
        })
    }

    /// Whether Redis has to be told: it has been told of that attempt, which a late answer does, too.
    fn give_back_here(&self, key: u128, cells: Cells) -> bool {
        self.known.update(key, |known| match known {
            Some(mut known) => (known.give_back(cells, self.global.replicas()), Some(known)),
            // All there is has been replenished since.
            None => (false, None),
        })
    }

    /// Forgets those who have all of their attempts again.
    pub(super) fn forget(&self) {
        let now = self.start.elapsed();
        self.known.retain(|known| known.until > now);
        metrics::gauge!("tenantry_limit_entries", "scope" => "login").set(self.known.len() as f64);
    }
}

/// Those of a rate; none where nothing is limited.
pub(super) fn cells(rate: Rate) -> Option<Cells> {
    let Rate::Per(n, period) = rate else { return None };
    Some(Cells::new(&Policy::new("login", n, period), Duration::ZERO))
}

impl Attempt {
    /// Gives the attempt back unless a password was guessed, and guessed wrong, be it as a part of a request. Without this it
    /// stays counted: so it is with one that was given up before it was answered.
    pub(crate) async fn end<T>(self, result: &accounts::Result<T>) {
        use accounts::Error::{KeyReused, WrongCredentials, WrongPassword};
        if !matches!(result, Err(WrongCredentials | WrongPassword | KeyReused)) {
            self.give_back().await;
        }
    }

    /// Gives a sign-up back that has made nothing: what is refused, and what is answered as before, is none.
    pub(crate) async fn end_sign_up(self, has_made: bool) {
        if !has_made {
            self.give_back().await;
        }
    }

    async fn give_back(self) {
        let Some(cells) = self.cells else { return };
        let Self { attempts, what, key, taken, .. } = self;
        let global = attempts.global.clone();
        if taken.is_none() && !attempts.give_back_here(key, cells) {
            return;
        }
        // Whoever was right must not pay for a Redis that is slow.
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            let unused = taken.map(|taken| taken.unused(taken.count));
            attempts.ask(what, key, cells, 0, unused.as_slice()).await;
            // Nobody need wait for it.
            let _ = tell.send(());
        });
        global.wait(told).await;
    }
}

impl What<'_> {
    /// The part of names in Redis that tells what is limited.
    pub(super) fn limit(self) -> &'static str {
        match self {
            Self::SignIn(..) => "login",
            Self::Forgot(..) => "forgot",
            Self::Resend(..) => "resend",
            Self::OwnPassword(..) => "password",
            Self::Repetition(_) => "repetition",
            Self::SignUp(_) => "register",
        }
    }

    /// As metrics name it: by the setting.
    fn scope(self) -> &'static str {
        match self {
            Self::SignUp(_) => "register",
            _ => "login",
        }
    }

    /// 16 bytes, however long the names are.
    pub(super) fn key(self) -> u128 {
        let what = self.limit();
        // Ids are read in any case, slugs are not.
        let id =
            |tenant: &str| Uuid::try_parse(tenant).map_or_else(|_| tenant.to_owned(), |id| id.to_string());
        match self {
            Self::SignIn(tenant, email) | Self::Forgot(tenant, email) | Self::Resend(tenant, email) => {
                digest(&[what, &id(tenant), email])
            }
            Self::OwnPassword(tenant, user) => digest(&[what, &tenant.to_string(), &user.to_string()]),
            Self::Repetition(of) => digest(&[what, "", &of.map(|byte| format!("{byte:02x}")).concat()]),
            Self::SignUp(address) => digest(&[what, "", &format!("{:032x}", bucket(address))]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_spelling_of_a_tenant_is_no_other_tenant() {
        let id = Uuid::now_v7().to_string();
        let of = |tenant: &str| What::SignIn(tenant, "ada@example.org").key();
        assert_eq!(of(&id), of(&id.to_uppercase()));
        assert_ne!(of("acme"), of("acme2"));
        assert_ne!(What::SignIn("a", "b").key(), What::Resend("a", "b").key());
        assert_ne!(What::SignIn("a", "b").key(), What::SignIn("ab", "").key());
    }

    #[test]
    fn a_subscriber_signs_up_by_one_limit() {
        let of = |address: &str| What::SignUp(address.parse().unwrap()).key();
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:2::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
    }
}
