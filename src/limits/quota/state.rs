//! What a process has of a tenant's quota, and what it decides by that. Nothing here waits.

use std::{collections::VecDeque, num::NonZeroU32, time::Duration};

use super::{Quota, Want};
use crate::limits::{
    global::{Known, Taken, Told, Unused},
    policy::Decision,
};

/// How long Redis is not asked for a tenant after it has not answered.
const AWAY: Duration = Duration::from_millis(250);

/// What a process has of a tenant's quota.
#[derive(Default)]
pub(super) struct State {
    /// The oldest first.
    leases: VecDeque<Lease>,
    pub(super) unused: Vec<Unused>,
    pub(super) known: Known,
    /// Nobody is let in before this time, and Redis is not asked before `ask`: it has said so.
    refused: Duration,
    ask: Duration,
    /// Until when Redis is not asked since it has not answered.
    away: Duration,
    /// Since when it is being asked.
    asking: Option<Duration>,
    /// Whether somebody waits for the leases to end, and whether somebody is about to take more.
    pub(super) is_settling: bool,
    pub(super) is_refilling: bool,
}

struct Lease {
    left: Unused,
    ends: Duration,
}

/// What a look into the process says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Decided(Decision),
    /// Let in, and more should be taken before it is needed.
    Low(Decision),
    /// Redis has to be asked.
    Empty,
}

impl State {
    /// Decides what can be decided without asking.
    pub(super) fn take(&mut self, quota: &Quota, now: Duration, replicas: NonZeroU32) -> Step {
        self.expire(now);
        if let Some(lease) = self.leases.front_mut() {
            lease.left.count -= 1;
            if lease.left.count == 0 {
                self.leases.pop_front();
            }
            let may_ask = self.ask <= now && self.away <= now && !self.is_refilling;
            self.is_refilling |= may_ask && self.is_low(quota, now);
            let decision = self.admitted(quota, now);
            return if may_ask && self.is_refilling { Step::Low(decision) } else { Step::Decided(decision) };
        }
        if now < self.away {
            return Step::Decided(self.take_here(quota, now, replicas));
        }
        if now < self.ask {
            let wait = self.refused.saturating_sub(now).max(self.ask - now);
            return Step::Decided(Decision::Refused { wait });
        }
        Step::Empty
    }

    /// What Redis is to be told, and given back.
    pub(super) fn ask(&mut self, quota: &Quota, now: Duration, replicas: NonZeroU32) -> (Told, Vec<Unused>) {
        self.expire(now);
        self.asking = Some(now);
        (self.known.tell(quota.cells, replicas, now), std::mem::take(&mut self.unused))
    }

    /// Redis has not answered.
    pub(super) fn not_answered(&mut self, told: Told, now: Duration) {
        self.asking = None;
        self.known.not_told(told);
        self.away = now + AWAY;
    }

    /// Redis has answered what it was asked at `asked`.
    pub(super) fn answered(
        &mut self,
        quota: &Quota,
        taken: &Taken,
        want: Want,
        asked: Duration,
        now: Duration,
        replicas: NonZeroU32,
    ) {
        (self.asking, self.away) = (None, now);
        self.known.learn(taken, quota.cells, replicas, now);
        if want == Want::Nothing {
            return;
        }
        if taken.count == 0 {
            self.refused = now + taken.wait;
            // Redis is not asked more often than that by those who are refused.
            let (least, most) = (Duration::from_millis(5), Duration::from_secs(1));
            self.ask = now + taken.wait.clamp(least, most);
            return;
        }
        (self.refused, self.ask) = (now, now);
        let left = taken.count - u32::from(want == Want::One);
        if left > 0 {
            // Counted from before it was asked for.
            self.leases.push_back(Lease { left: taken.unused(left), ends: asked + quota.lease });
        }
    }

    /// Whether somebody has to wait for the leases to end, who is not there yet.
    pub(super) fn has_to_settle(&mut self) -> bool {
        !self.leases.is_empty() && !std::mem::replace(&mut self.is_settling, true)
    }

    /// Somebody has waited for Redis since `begun`, for as long as a request may. Was that not for others who were asked for
    /// before, but since Redis is slow, then whoever comes now need not wait as well.
    pub(super) fn waited_in_vain(&mut self, begun: Duration, now: Duration) {
        if self.asking.is_some_and(|since| since <= begun + (now - begun) / 2) {
            self.away = now + AWAY;
        }
    }

    /// Decides by what this process knows.
    pub(super) fn take_here(&mut self, quota: &Quota, now: Duration, replicas: NonZeroU32) -> Decision {
        metrics::counter!("tenantry_limit_decisions_total", "scope" => "tenant", "by" => "process")
            .increment(1);
        match self.known.take(quota.cells, replicas, now) {
            Ok(()) => self.admitted(quota, now),
            Err(wait) => Decision::Refused { wait },
        }
    }

    /// Whether more should be taken: little is left, or may not be used for long.
    pub(super) fn is_low(&self, quota: &Quota, now: Duration) -> bool {
        let ends = self.leases.back().map_or(now, |lease| lease.ends);
        self.leased() < quota.chunk / 2 || ends.saturating_sub(now) < quota.lease / 3
    }

    /// How long the leases go on. None: they have ended, and whoever waits for that need not come back.
    pub(super) fn until_leases_end(&mut self, now: Duration) -> Option<Duration> {
        self.expire(now);
        // Those of another plan may be shorter.
        let last = self.leases.iter().map(|lease| lease.ends).max();
        self.is_settling = last.is_some();
        last.map(|ends| ends.saturating_sub(now))
    }

    fn leased(&self) -> u32 {
        self.leases.iter().map(|lease| lease.left.count).sum()
    }

    /// How long a request would have to wait, as far as this process knows.
    pub(super) fn wait(&self, quota: &Quota, now: Duration) -> Option<Duration> {
        let next = self.known.until + Duration::from_micros(quota.cells.each);
        let wait = next.saturating_sub(now + Duration::from_micros(quota.cells.burst));
        let has_leased = self.leases.iter().any(|lease| lease.left.count > 0 && lease.ends > now);
        (!has_leased && !wait.is_zero()).then_some(wait)
    }

    /// What is left as of when Redis was asked, and what is leased.
    pub(super) fn admitted(&self, quota: &Quota, now: Duration) -> Decision {
        let ahead = self.known.until.saturating_sub(now);
        let free = Duration::from_micros(quota.cells.burst).saturating_sub(ahead).as_micros();
        let free = u32::try_from(free / u128::from(quota.cells.each)).unwrap_or(u32::MAX);
        let remaining = free.saturating_add(self.leased()).min(quota.policy.quota.get());
        Decision::Admitted { remaining, whole_in: ahead }
    }

    /// Takes what has not been used in time out of use.
    fn expire(&mut self, now: Duration) {
        while let Some(&Lease { left, ends }) = self.leases.front()
            && ends <= now
        {
            self.leases.pop_front();
            self.unused.push(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Rate;

    const ONE: NonZeroU32 = NonZeroU32::MIN;
    const TWO: NonZeroU32 = NonZeroU32::new(2).unwrap();

    /// Ten at a time, to be used within a second.
    fn quota() -> Quota {
        Quota::new(Rate::Per(NonZeroU32::new(1000).unwrap(), at(100_000))).unwrap()
    }

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// What Redis gives at this time of what was asked for `since` then.
    fn given(state: &mut State, count: u32, (since, now): (u64, u64)) {
        let wait = if count == 0 { at(100) } else { at(0) };
        let taken = Taken::of(count, at(u64::from(count) * 100), wait);
        state.answered(&quota(), &taken, Want::More, at(since), at(now), ONE);
    }

    #[test]
    fn what_is_leased_is_let_in_without_asking_until_little_is_left() {
        let (mut state, quota) = (State::default(), quota());
        assert_eq!(state.take(&quota, at(0), ONE), Step::Empty);
        given(&mut state, 10, (0, 1));
        for n in 0..5 {
            assert!(
                matches!(state.take(&quota, at(2), ONE), Step::Decided(Decision::Admitted { .. })),
                "{n}"
            );
        }
        assert!(matches!(state.take(&quota, at(2), ONE), Step::Low(_)), "four are left");
        assert!(matches!(state.take(&quota, at(2), ONE), Step::Decided(_)), "somebody is taking more");
    }

    #[test]
    fn a_lease_ends_as_long_after_it_was_asked_for_and_is_given_back() {
        let (mut state, quota) = (State::default(), quota());
        given(&mut state, 10, (0, 400));
        assert!(state.has_to_settle() && !state.has_to_settle(), "one is enough");
        assert!(matches!(state.take(&quota, at(999), ONE), Step::Low(_)), "it ends soon");
        assert_eq!(state.until_leases_end(at(999)), Some(at(1)));
        assert_eq!(state.take(&quota, at(1000), ONE), Step::Empty);
        assert_eq!(state.until_leases_end(at(1000)), None);
        let (_, unused) = state.ask(&quota, at(1000), ONE);
        assert_eq!(unused.iter().map(|unused| unused.count).collect::<Vec<_>>(), [9]);
    }

    #[test]
    fn who_was_refused_is_refused_without_asking_again() {
        let (mut state, quota) = (State::default(), quota());
        given(&mut state, 0, (0, 0));
        let refused = |wait| Step::Decided(Decision::Refused { wait: at(wait) });
        assert_eq!(state.take(&quota, at(40), ONE), refused(60));
        assert_eq!(state.take(&quota, at(100), ONE), Step::Empty);
    }

    #[test]
    fn while_redis_is_away_a_share_is_let_in_and_told_to_it_afterwards() {
        let (mut state, quota) = (State::default(), quota());
        let (told, _) = state.ask(&quota, at(0), TWO);
        state.not_answered(told, at(50));
        let admitted = (0..600)
            .filter(|_| {
                let step = state.take(&quota, at(60), TWO);
                matches!(step, Step::Decided(Decision::Admitted { .. }))
            })
            .count();
        assert_eq!(admitted, 495, "half of what is not kept back for leases");
        assert_eq!(state.take(&quota, at(300), TWO), Step::Empty, "it is asked again");
    }

    #[test]
    fn only_a_redis_that_is_slow_itself_is_taken_for_one_that_is_away() {
        let (mut state, quota) = (State::default(), quota());
        state.waited_in_vain(at(0), at(50));
        assert_eq!(state.take(&quota, at(50), ONE), Step::Empty, "it was not asked");
        state.ask(&quota, at(45), ONE);
        state.waited_in_vain(at(0), at(50));
        assert_eq!(state.take(&quota, at(50), ONE), Step::Empty, "it was asked for somebody else until now");
        state.waited_in_vain(at(44), at(94));
        assert!(matches!(state.take(&quota, at(94), ONE), Step::Decided(_)), "by what is known");
    }
}
