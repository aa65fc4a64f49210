//! Deliveries of webhooks that have not been made yet.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::faults::Waits;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Delivery {
    pub(crate) event: String,
    pub(crate) endpoint: String,
    /// How many times it has been tried.
    pub(crate) tried: usize,
}

#[derive(Default)]
pub(crate) struct Queue {
    waiting: BTreeMap<(Instant, u64), Delivery>,
    /// Until somebody lets them go.
    held: Vec<Delivery>,
    next: u64,
    pub(crate) under_way: Vec<Delivery>,
    pub(crate) delivered: u64,
    pub(crate) refused: u64,
    pub(crate) given_up: u64,
    pub(crate) lost: u64,
}

/// As the list of what has not been delivered for certain. What is read from one is held until somebody lets it go.
impl Serialize for Queue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.under_way.iter().chain(self.all()))
    }
}

impl<'de> Deserialize<'de> for Queue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { held: Vec::deserialize(deserializer)?, ..Self::default() })
    }
}

impl Queue {
    pub(crate) fn add(&mut self, event: &str, endpoint: &str, waits: Waits, deliver: bool) {
        if waits.is_empty() {
            self.lost += 1;
        }
        for wait in waits {
            let delivery = Delivery { event: event.to_owned(), endpoint: endpoint.to_owned(), tried: 0 };
            if deliver { self.wait(delivery, wait) } else { self.held.push(delivery) }
        }
    }

    pub(crate) fn wait(&mut self, delivery: Delivery, wait: Duration) {
        self.next += 1;
        self.waiting.insert((Instant::now() + wait, self.next), delivery);
    }

    /// Takes what is due, and counts it as under way.
    pub(crate) fn take(&mut self, most: usize) -> Vec<Delivery> {
        let mut due = vec![];
        while self.under_way.len() < most {
            let Some(first) = self.waiting.first_entry().filter(|first| first.key().0 <= Instant::now())
            else {
                break;
            };
            let delivery = first.remove();
            self.under_way.push(delivery.clone());
            due.push(delivery);
        }
        due
    }

    /// A delivery that was taken has been tried.
    pub(crate) fn tried(&mut self, delivery: &Delivery) {
        if let Some(place) = self.under_way.iter().position(|one| one == delivery) {
            self.under_way.swap_remove(place);
        }
    }

    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes all that is held or waits, for somebody who puts it back in another order.
    pub(crate) fn take_all(&mut self) -> Vec<Delivery> {
        let mut all = std::mem::take(&mut self.held);
        all.extend(std::mem::take(&mut self.waiting).into_values());
        all
    }

    pub(crate) fn hold(&mut self, delivery: Delivery) {
        self.held.push(delivery);
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Delivery> {
        self.held.iter().chain(self.waiting.values())
    }

    /// Whether something is due or under way that was let go at `at` or before.
    pub(crate) fn is_busy(&self, at: Instant) -> bool {
        !self.under_way.is_empty() || self.next_at().is_some_and(|next| next <= at)
    }
}
