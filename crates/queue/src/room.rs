//! How many jobs of which kind a worker process may lease now.

use std::collections::HashMap;

use tenantry_jobs::Kind;
use uuid::Uuid;

/// The places of a worker process: those that all kinds share, and those that a kind has of its own.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    kinds: Vec<Kind>,
    shared: usize,
}

/// What is free.
#[derive(Debug, Clone, Default)]
pub(crate) struct Room {
    pub(crate) kinds: Vec<KindRoom>,
    /// Places that all kinds share.
    pub(crate) shared: usize,
}

/// What is free for one kind.
#[derive(Debug, Clone)]
pub(crate) struct KindRoom {
    pub(crate) kind: Kind,
    /// How many at most.
    pub(crate) room: usize,
    /// How many of these are in places of the kind's own.
    pub(crate) reserved: usize,
    /// How many jobs of this kind one tenant may have running here.
    pub(crate) cap: usize,
}

impl Places {
    pub(crate) fn new(kinds: &[Kind], shared: usize) -> Self {
        Self { kinds: kinds.to_vec(), shared: shared.max(1) }
    }

    /// How many jobs run at once, at most.
    pub(crate) fn all(&self) -> usize {
        self.shared + self.kinds.iter().map(|kind| kind.policy().reserved).sum::<usize>()
    }

    /// What is free while these run. A kind fills its own places first.
    pub(crate) fn room(&self, running: &[(Kind, Uuid)]) -> Room {
        let mut counts: HashMap<Kind, usize> = HashMap::new();
        for (kind, _) in running {
            *counts.entry(*kind).or_default() += 1;
        }
        let used: usize =
            counts.iter().map(|(kind, count)| count.saturating_sub(kind.policy().reserved)).sum();
        let shared = self.shared.saturating_sub(used);
        let kinds = self.kinds.iter().map(|kind| {
            let (policy, count) = (kind.policy(), counts.get(kind).copied().unwrap_or(0));
            let reserved = policy.reserved.saturating_sub(count);
            let places = policy.concurrency.min(self.shared + policy.reserved);
            let room = places.saturating_sub(count).min(reserved + shared);
            // One tenant's slow jobs leave places for others.
            KindRoom { kind: *kind, room, reserved: reserved.min(room), cap: (places * 3 / 4).max(1) }
        });
        let kinds: Vec<_> = kinds.filter(|kind| kind.room > 0).collect();
        Room { kinds, shared }
    }

    /// Whether the end of one of these may make room for a job that waits: a kind has no place left, or a tenant holds
    /// as many of a kind's as it may.
    pub(crate) fn tight(&self, running: &[(Kind, Uuid)]) -> bool {
        let room = self.room(running);
        room.kinds.len() < self.kinds.len()
            || room.kinds.iter().any(|free| {
                running
                    .iter()
                    .filter(|(kind, _)| *kind == free.kind)
                    .any(|job| running.iter().filter(|other| *other == job).count() >= free.cap)
            })
    }

    /// Whether one of `kinds` has a quarter of its places free.
    pub(crate) fn airy(&self, running: &[(Kind, Uuid)], kinds: &[Kind]) -> bool {
        let room = self.room(running);
        kinds.is_empty()
            || room.kinds.iter().filter(|free| kinds.contains(&free.kind)).any(|free| {
                // The cap is three quarters.
                free.room * 3 >= free.cap
            })
    }

    /// Room for the worker that waits for these jobs to end: kinds with places of their own go on in them while a job
    /// runs that may take longer than they.
    pub(crate) fn room_meanwhile(&self, running: &[(Kind, Uuid)], waited_for: &[Kind]) -> Room {
        let outlasted = |kind: Kind| waited_for.iter().any(|w| w.policy().timeout > kind.policy().timeout);
        let room = self.room(running);
        let kinds = room.kinds.into_iter().filter(|free| free.reserved > 0 && outlasted(free.kind));
        let kinds = kinds.map(|free| KindRoom { room: free.reserved, ..free }).collect();
        Room { kinds, shared: 0 }
    }
}

impl Room {
    /// The same kinds, and no place for any.
    pub(crate) fn none(self) -> Room {
        let kinds = self.kinds.into_iter().map(|free| KindRoom { room: 0, reserved: 0, ..free }).collect();
        Room { kinds, shared: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: Kind, room: &Room) -> usize {
        room.kinds.iter().find(|free| free.kind == kind).map_or(0, |free| free.room)
    }

    #[test]
    fn shared_places_run_out_and_reserved_ones_stay() {
        let places = Places::new(Kind::ALL, 3);
        let mails = |n| vec![(Kind::VerifyEmail, Uuid::nil()); n];

        assert_eq!(of(Kind::VerifyEmail, &places.room(&mails(0))), 7);
        assert_eq!(of(Kind::VerifyEmail, &places.room(&mails(7))), 0);
        assert_eq!(of(Kind::InvalidateUser, &places.room(&mails(7))), 4);
        assert_eq!(of(Kind::PruneJobs, &places.room(&mails(6))), 1);
        assert_eq!(of(Kind::PruneJobs, &places.room(&mails(7))), 0);
    }

    #[test]
    fn a_tenant_that_has_all_it_may_waits_for_its_own_jobs() {
        let places = Places::new(Kind::ALL, 12);
        let mails = |n| vec![(Kind::VerifyEmail, Uuid::nil()); n];

        assert!(!places.tight(&mails(11)));
        assert!(places.tight(&mails(12)));
        assert_eq!(of(Kind::VerifyEmail, &places.room(&mails(12))), 4);
    }

    #[test]
    fn while_a_worker_waits_only_what_is_shorter_goes_on() {
        let places = Places::new(Kind::ALL, 3);
        let running = [(Kind::VerifyEmail, Uuid::nil()), (Kind::InvalidateUser, Uuid::nil())];

        let meanwhile = places.room_meanwhile(&running, &[Kind::VerifyEmail, Kind::InvalidateUser]);
        assert_eq!((meanwhile.kinds.len(), of(Kind::InvalidateUser, &meanwhile)), (1, 3));
        assert!(places.room_meanwhile(&running[1..], &[Kind::InvalidateUser]).kinds.is_empty());
    }
}
