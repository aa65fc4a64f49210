//! A key makes a POST happen once: its answer is kept and given again.

use std::collections::HashMap;

use crate::error::{Error, Result};

/// Stripe forgets keys after a day at the earliest.
const KEPT: i64 = 24 * 3600;

/// An answer as it was: its status, its body, and the request that it was for.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) request: String,
}

struct Entry {
    /// The route and the parameters as they came.
    fingerprint: Vec<u8>,
    at: i64,
    /// None while the first request is under way.
    answer: Option<Kept>,
}

#[derive(Default)]
pub(crate) struct Keys(HashMap<String, Entry>);

impl Keys {
    /// The answer that a key has already, or its beginning.
    pub(crate) fn begin(&mut self, key: &str, fingerprint: &[u8], now: i64) -> Result<Option<Kept>> {
        if key.len() > 255 {
            return Err(Error::invalid("Idempotency keys are up to 255 characters long."));
        }
        if let Some(entry) = self.0.get(key).filter(|entry| now - entry.at < KEPT) {
            if entry.fingerprint != fingerprint {
                return Err(Error::other_parameters(key));
            }
            return entry.answer.clone().map(Some).ok_or_else(|| Error::in_flight(key));
        }
        let entry = Entry { fingerprint: fingerprint.to_vec(), at: now, answer: None };
        self.0.insert(key.to_owned(), entry);
        Ok(None)
    }

    /// Keeps the answer, or frees the key.
    pub(crate) fn end(&mut self, key: &str, answer: Option<Kept>) {
        match answer {
            None => {
                self.0.remove(key);
            }
            Some(answer) => {
                if let Some(entry) = self.0.get_mut(key) {
                    entry.answer = Some(answer);
                }
            }
        }
    }
}
