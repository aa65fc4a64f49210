//! The circuit breaker: while Redis is known not to answer, nobody waits for it.

use std::{fmt::Display, sync::Mutex, time::Duration};

use tokio::time::Instant;

use crate::sync::Lock;

/// So many calls in a row without an answer open the breaker. The background probe opens it where there are fewer calls.
const FAILURES: u32 = 5;

/// A change is a line in the log, but in this time there are no more than `LINES`.
const QUIET: Duration = Duration::from_secs(10);
const LINES: usize = 2;

/// Open or closed, and why. What a caller must do about a call that was not made is what it does about one that failed.
#[derive(Debug)]
pub(crate) struct Breaker(Mutex<State>);

#[derive(Debug)]
struct State {
    open: bool,
    /// Calls without an answer since the last answer.
    failures: u32,
    /// How often it has opened: a call from before must not count against a Redis that has come back since.
    openings: u64,
    /// Why it is open, or what it is closed for.
    news: String,
    log: Log,
}

/// What has been said of the changes.
#[derive(Debug, Default)]
struct Log {
    /// Changes that have not been said.
    unsaid: u32,
    /// When the last lines were written.
    lines: Vec<Instant>,
}

/// The permission to make a call; its owner says how the call ended. Dropped without, it says nothing.
#[derive(Debug)]
pub(crate) struct Ticket(u64);

impl Breaker {
    /// Open until there is a connection.
    pub(crate) fn new() -> Self {
        tell(true);
        let (news, log) = (String::new(), Log::default());
        Self(Mutex::new(State { open: true, failures: 0, openings: 1, news, log }))
    }

    /// `None` while the breaker is open.
    pub(crate) fn admit(&self) -> Option<Ticket> {
        let state = self.0.locked();
        (!state.open).then_some(Ticket(state.openings))
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.locked().open
    }

    /// Redis has answered, be it with an error: an answer is what nobody has to wait for.
    pub(crate) fn answered(&self, ticket: Ticket) {
        let mut state = self.0.locked();
        if state.openings == ticket.0 {
            state.failures = 0;
        }
    }

    /// Redis has not answered in time, or could not be reached.
    pub(crate) fn failed(&self, ticket: Ticket) {
        let mut state = self.0.locked();
        if state.openings != ticket.0 {
            return;
        }
        state.failures += 1;
        if state.failures >= FAILURES {
            state.open("redis does not answer in time");
        }
    }

    pub(crate) fn open(&self, why: &str) {
        self.0.locked().open(why);
    }

    pub(crate) fn close(&self, what: impl Display) {
        let mut state = self.0.locked();
        if state.open {
            (state.open, state.failures) = (false, 0);
            tell(false);
            state.change(format!("redis answers; the cache uses it ({what})"));
        }
    }

    /// Says what was kept back, once it may be said; to be called now and then.
    pub(crate) fn say(&self) {
        self.0.locked().say();
    }
}

impl State {
    fn open(&mut self, why: &str) {
        if !self.open {
            (self.open, self.openings) = (true, self.openings + 1);
            tell(true);
        } else if self.news == why {
            return;
        }
        self.change(why.to_owned());
    }

    fn change(&mut self, news: String) {
        self.news = news;
        self.log.unsaid += 1;
        self.say();
    }

    fn say(&mut self) {
        let Some(changes) = self.log.take(Instant::now()) else { return };
        let again = if changes > 1 { format!("; {changes} changes lately") } else { String::new() };
        if self.open {
            tracing::warn!(cache.breaker = "open", "{}; the cache goes on without redis{again}", self.news);
        } else {
            tracing::info!(cache.breaker = "closed", "{}{again}", self.news);
        }
    }
}

impl Log {
    /// How many changes may be said now, in one line.
    fn take(&mut self, now: Instant) -> Option<u32> {
        self.lines.retain(|line| now - *line < QUIET);
        if self.unsaid == 0 || self.lines.len() >= LINES {
            return None;
        }
        self.lines.push(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

fn tell(open: bool) {
    metrics::gauge!("tenantry_cache_breaker_open").set(f64::from(u8::from(open)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed() -> Breaker {
        let breaker = Breaker::new();
        breaker.close("a test");
        breaker
    }

    fn fail(breaker: &Breaker, times: u32) {
        for _ in 0..times {
            breaker.failed(breaker.admit().unwrap());
        }
    }

    #[test]
    fn failures_in_a_row_open_it_and_an_answer_in_between_does_not_let_them() {
        let breaker = closed();
        fail(&breaker, FAILURES - 1);
        breaker.answered(breaker.admit().unwrap());
        fail(&breaker, FAILURES - 1);
        assert!(!breaker.is_open());
        fail(&breaker, 1);
        assert!(breaker.is_open());
        assert!(breaker.admit().is_none());
    }

    #[test]
    fn once_closed_it_counts_anew() {
        let breaker = closed();
        fail(&breaker, FAILURES);
        breaker.close("a test");
        fail(&breaker, FAILURES - 1);
        assert!(!breaker.is_open());
    }

    #[test]
    fn calls_from_before_it_opened_count_no_more() {
        let breaker = closed();
        let early: Vec<_> = (0..FAILURES).map(|_| breaker.admit().unwrap()).collect();
        breaker.open("a test");
        breaker.close("a test");
        for ticket in early {
            breaker.failed(ticket);
        }
        assert!(!breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_said_at_once_unless_there_are_many() {
        let mut log = Log { unsaid: 1, ..Log::default() };
        assert_eq!(log.take(Instant::now()), Some(1));
        assert_eq!(log.take(Instant::now()), None, "nothing new");
        log.unsaid = 1;
        assert_eq!(log.take(Instant::now()), Some(1));
        log.unsaid = 1;
        assert_eq!(log.take(Instant::now()), None, "too many");
        tokio::time::advance(Duration::from_secs(9)).await;
        log.unsaid += 6;
        assert_eq!(log.take(Instant::now()), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(log.take(Instant::now()), Some(7), "in one line");
        assert_eq!(log.take(Instant::now()), None);
    }
}
