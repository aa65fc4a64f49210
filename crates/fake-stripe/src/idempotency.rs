//! A key makes a POST happen once: its answer is kept and given again.

use std::collections::HashMap;

use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::{
    cached::Cached,
    error::{Error, Result},
};

/// Stripe forgets keys after a day at the earliest.
const KEPT: i64 = 24 * 3600;

/// An answer as it was: its status, its body, and the request that it was for.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) request: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Of the route and the parameters as they came.
    digest: Vec<u8>,
    at: i64,
    /// None while the first request is under way.
    answer: Option<Kept>,
}

#[derive(Default, Deserialize)]
pub(crate) struct Keys(HashMap<String, Cached<Entry>>);

/// What is under way will not have happened where this is read.
impl Serialize for Keys {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().filter(|(_, entry)| entry.answer.is_some()))
    }
}

impl Keys {
    /// The answer that a key has already, or its beginning.
    pub(crate) fn begin(&mut self, key: &str, request: &[u8], now: i64) -> Result<Option<Kept>> {
        if key.len() > 255 {
            return Err(Error::invalid("Idempotency keys are up to 255 characters long."));
        }
        let digest = Sha256::digest(request).to_vec();
        if let Some(entry) = self.0.get(key).filter(|entry| now - entry.at < KEPT) {
            if entry.digest != digest {
                return Err(Error::other_parameters(key));
            }
            return entry.answer.clone().map(Some).ok_or_else(|| Error::in_flight(key));
        }
        let entry = Entry { digest, at: now, answer: None };
        self.0.insert(key.to_owned(), entry.into());
        Ok(None)
    }

    /// Forgets answers that would not be given again.
    pub(crate) fn forget(&mut self, now: i64) {
        self.0.retain(|_, entry| entry.answer.is_none() || now - entry.at < KEPT);
    }

    /// Keeps the answer, or frees the key.
    pub(crate) fn end(&mut self, key: &str, answer: Option<Kept>) {
        if let Some(entry) = self.0.remove(key)
            && answer.is_some()
        {
            let entry = Entry { answer, ..entry.into_inner() };
            self.0.insert(key.to_owned(), entry.into());
        }
    }
}
