//! How long an answer took, and what of that: `X-Process-Time` and `Server-Timing`.

use std::{cell::RefCell, time::Duration};

use poem::http::{HeaderName, HeaderValue};
use tenantry_trace::Work;

use crate::digits::fraction;

pub(super) const PROCESS_TIME: HeaderName = HeaderName::from_static("x-process-time");
pub(super) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
pub(super) const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

/// How long a request took.
pub(super) struct Timing<'a> {
    pub(super) took: Duration,
    pub(super) work: &'a Work,
}

impl Timing<'_> {
    /// In seconds.
    pub(super) fn total(&self) -> HeaderValue {
        written(|text| fraction::<6>(text, micros(self.took)))
    }

    /// What for, if whoever asked `may_know`. Nobody else does: how long the database was busy would tell whether there is an
    /// account. `cache` is the level that answered.
    pub(super) fn server(&self, may_know: bool, cache: Option<&str>) -> HeaderValue {
        written(|text| {
            text.push_str("total;dur=");
            fraction::<3>(text, micros(self.took));
            if !may_know {
                return;
            }
            if let Some(level) = cache {
                text.push_str(", cache;desc=");
                text.push_str(level);
            }
            let database = self.work.in_database();
            if database > Duration::ZERO {
                text.push_str(", db;dur=");
                fraction::<3>(text, micros(database));
            }
        })
    }
}

/// A value that `write` writes, of which all can be in a header.
fn written(write: impl FnOnce(&mut String)) -> HeaderValue {
    thread_local! {
        /// So that the memory of a value is asked for once, and of its length.
        static ROOM: RefCell<String> = const { RefCell::new(String::new()) };
    }
    ROOM.with_borrow_mut(|text| {
        text.clear();
        write(text);
        HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
    })
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
