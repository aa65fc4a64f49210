//! The newest timeline of the database that this node has heard of, and since when.
//!
//! Unlike an [era](crate::era) it is not about what is shown, but about whom to ask: a connection that was opened before may
//! lead to the old primary.

use std::{sync::RwLock, time::Instant};

use crate::sync::Shared;

#[derive(Debug)]
pub(crate) struct Timeline(RwLock<Known>);

#[derive(Debug)]
struct Known {
    name: String,
    since: Instant,
}

impl Timeline {
    pub(crate) fn new(name: &str) -> Self {
        Self(RwLock::new(Known { name: name.to_owned(), since: Instant::now() }))
    }

    /// Takes note of `name`, unless a newer one is known: timelines are numbers of one length that count up.
    pub(crate) fn learn(&self, name: &str) {
        let is_new = |known: &str| (name.len(), name) > (known.len(), known);
        if !is_new(&self.0.reading().name) {
            return;
        }
        let mut known = self.0.writing();
        if is_new(&known.name) {
            *known = Known { name: name.to_owned(), since: Instant::now() };
        }
    }

    pub(crate) fn name(&self) -> String {
        self.0.reading().name.clone()
    }

    pub(crate) fn since(&self) -> Instant {
        self.0.reading().since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_forward_only_and_begins_when_it_is_learned() {
        let timeline = Timeline::new("0");
        let start = timeline.since();
        timeline.learn("0000000A");
        let learned = timeline.since();
        assert!(learned > start);
        for old in ["00000009", "0000000A", "0"] {
            timeline.learn(old);
            assert_eq!((timeline.name().as_str(), timeline.since()), ("0000000A", learned));
        }
        timeline.learn("0000000B");
        assert!(timeline.since() > learned);
    }
}
