//! How many look-ups of rows that do not exist may leave a trace. Whoever asks for ids at random gets a 404 for each, and
//! must not get a place in Redis and in the process for each.

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;

use crate::sync::Lock;

#[derive(Debug)]
pub(crate) struct Absences {
    per_second: u32,
    second: Mutex<Second>,
}

#[derive(Debug)]
struct Second {
    began: Instant,
    admitted: u32,
}

impl Absences {
    /// With `per_second` 0 none is stored.
    pub(crate) fn new(per_second: u32) -> Self {
        Self { per_second, second: Mutex::new(Second { began: Instant::now(), admitted: 0 }) }
    }

    /// Whether one more may be stored now; counts it.
    pub(crate) fn admit(&self) -> bool {
        let admitted = self.has_room();
        let outcome = if admitted { "stored" } else { "too_many" };
        metrics::counter!("tenantry_cache_absent_total", "outcome" => outcome).increment(1);
        admitted
    }

    fn has_room(&self) -> bool {
        let now = Instant::now();
        let mut second = self.second.locked();
        if now.duration_since(second.began) >= Duration::from_secs(1) {
            *second = Second { began: now, admitted: 0 };
        }
        let admitted = second.admitted < self.per_second;
        second.admitted += u32::from(admitted);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_second_admits_so_many() {
        let absences = Absences::new(2);
        for _ in 0..3 {
            assert_eq!([(); 4].map(|()| absences.admit()), [true, true, false, false]);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(!Absences::new(0).admit());
    }
}
