//! The circuit breaker: while Redis is known not to answer, nobody waits for it.

use std::sync::Mutex;

use crate::sync::Lock;

/// So many calls in a row without an answer open the breaker. The background ping opens it where there are fewer calls.
const FAILURES: u32 = 5;

/// Open or closed, and why. What a caller must do about a call that was not made is what it does about one that failed.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    open: bool,
    /// Calls without an answer since the last answer.
    failures: u32,
    /// How often it has opened: a call from before must not count against a Redis that has come back since.
    openings: u64,
}

/// The permission to make a call; its owner says how the call ended. Dropped without, it says nothing.
#[derive(Debug)]
pub(crate) struct Ticket(u64);

impl Breaker {
    pub(crate) fn new() -> Self {
        let breaker = Self::default();
        tell(false);
        breaker
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
            state.open();
        }
    }

    pub(crate) fn open(&self) {
        self.0.locked().open();
    }

    pub(crate) fn close(&self) {
        let mut state = self.0.locked();
        if state.open {
            (state.open, state.failures) = (false, 0);
            tell(false);
            tracing::info!(cache.breaker = "closed", "redis answers again; the cache uses it");
        }
    }
}

impl State {
    fn open(&mut self) {
        if !self.open {
            (self.open, self.openings) = (true, self.openings + 1);
            tell(true);
            tracing::warn!(
                cache.breaker = "open",
                "redis does not answer; the cache goes on without it until it does"
            );
        }
    }
}

fn tell(open: bool) {
    metrics::gauge!("tenantry_cache_breaker_open").set(f64::from(u8::from(open)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(breaker: &Breaker, times: u32) {
        for _ in 0..times {
            breaker.failed(breaker.admit().unwrap());
        }
    }

    #[test]
    fn failures_in_a_row_open_it_and_an_answer_in_between_does_not_let_them() {
        let breaker = Breaker::new();
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
        let breaker = Breaker::new();
        fail(&breaker, FAILURES);
        breaker.close();
        fail(&breaker, FAILURES - 1);
        assert!(!breaker.is_open());
    }

    #[test]
    fn calls_from_before_it_opened_count_no_more() {
        let breaker = Breaker::new();
        let early: Vec<_> = (0..FAILURES).map(|_| breaker.admit().unwrap()).collect();
        breaker.open();
        breaker.close();
        for ticket in early {
            breaker.failed(ticket);
        }
        assert!(!breaker.is_open());
    }
}
