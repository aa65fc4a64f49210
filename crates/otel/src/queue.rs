//! Spans that are on their way: put in by whoever ends one, taken out by one task.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use metrics::Counter;
use tenantry_trace::Finished;
use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    collector::{Collector, Taken},
    message::Resource,
};

/// How many spans wait at most, those of the batch that is under way not counted; some megabytes.
const LENGTH: usize = 4096;
/// How many go in one message, and how long the first of them waits for company.
const BATCH: usize = 512;
const COMPANY: Duration = Duration::from_secs(1);
/// A collector that fails is talked of once in this time.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// The way in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Queue {
    way: Sender<Finished>,
    counters: Arc<Counters>,
}

/// What becomes of spans. Each is counted once.
struct Counters {
    exported: Counter,
    full: Counter,
    failed: Counter,
    refused: Counter,
    late: Counter,
    /// Put in, and not counted yet.
    under_way: AtomicUsize,
    over: AtomicBool,
}

impl Queue {
    pub(crate) fn new() -> (Self, Receiver<Finished>) {
        let (way, spans) = mpsc::channel(LENGTH);
        let dropped = |reason| metrics::counter!("tenantry_spans_dropped_total", "reason" => reason);
        let counters = Counters {
            exported: metrics::counter!("tenantry_spans_exported_total"),
            full: dropped("full"),
            failed: dropped("failed"),
            refused: dropped("refused"),
            late: dropped("late"),
            under_way: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        };
        (Self { way, counters: Arc::new(counters) }, spans)
    }

    /// Puts a span in, or drops it. Never waits.
    pub(crate) fn push(&self, span: Finished) {
        let counters = &self.counters;
        counters.under_way.fetch_add(1, SeqCst);
        let is_over = counters.over.load(SeqCst);
        if is_over || self.way.try_send(span).is_err() {
            counters.under_way.fetch_sub(1, SeqCst);
            let dropped = if is_over { &counters.late } else { &counters.full };
            dropped.increment(1);
        }
    }

    fn settle(&self, sent: usize, taken: &Taken) {
        let counters = &self.counters;
        let refused = taken.refused.min(sent);
        match taken.problem {
            Some(_) if taken.is_refusal => counters.refused.increment(sent as u64),
            Some(_) => counters.failed.increment(sent as u64),
            None => {
                counters.refused.increment(refused as u64);
                counters.exported.increment((sent - refused) as u64);
            }
        }
        counters.under_way.fetch_sub(sent, SeqCst);
    }

    /// Nothing goes in any more, and what is in is dropped: so many.
    pub(crate) fn abandon(&self) -> usize {
        self.counters.over.store(true, SeqCst);
        let left = self.counters.under_way.swap(0, SeqCst);
        self.counters.late.increment(left as u64);
        left
    }
}

/// Hands over what is in the queue, batch by batch, until `stop`; then what is left.
pub(crate) async fn empty(
    mut spans: Receiver<Finished>,
    queue: Queue,
    collector: Collector,
    resource: Resource,
    stop: CancellationToken,
) {
    let mut said: Option<Instant> = None;
    loop {
        let batch = batch(&mut spans, &stop).await;
        if batch.is_empty() {
            return;
        }
        let sent = batch.len();
        let taken = collector.take(&resource.hand_over(batch), &stop).await;
        queue.settle(sent, &taken);
        if let Some(problem) = taken.problem
            && said.is_none_or(|said| said.elapsed() > SAY_EVERY)
        {
            said = Some(Instant::now());
            tracing::warn!(
                "the collector of traces did not take {sent} spans: {problem}; such are counted in \
                 tenantry_spans_dropped_total and not told again within a minute"
            );
        }
    }
}

/// The next spans to go together; none once `stop` says so and the queue is empty.
async fn batch(spans: &mut Receiver<Finished>, stop: &CancellationToken) -> Vec<Finished> {
    let mut batch = Vec::new();
    tokio::select! {
        biased;
        _ = spans.recv_many(&mut batch, BATCH) => {}
        () = stop.cancelled() => return batch,
    }
    let until = Instant::now() + COMPANY;
    while batch.len() < BATCH {
        let room = BATCH - batch.len();
        tokio::select! {
            biased;
            more = spans.recv_many(&mut batch, room) => if more == 0 { break },
            () = stop.cancelled() => break,
            () = sleep_until(until) => break,
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tenantry_trace::{Kind, Trace};

    use super::*;

    fn span() -> Finished {
        let (start, end) = (SystemTime::now(), SystemTime::now());
        let trace = Trace::begin();
        Finished {
            trace,
            kind: Kind::Client,
            name: "GET".into(),
            start,
            end,
            attributes: vec![],
            failed: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_is_full_takes_no_more_and_what_is_in_it_goes_in_batches() {
        let (queue, mut spans) = Queue::new();
        for _ in 0..LENGTH + 10 {
            queue.push(span());
        }
        assert_eq!(queue.counters.under_way.load(SeqCst), LENGTH);
        let stop = CancellationToken::new();
        let begun = Instant::now();
        for _ in 0..LENGTH / BATCH {
            assert_eq!(batch(&mut spans, &stop).await.len(), BATCH);
        }
        assert_eq!(begun.elapsed(), Duration::ZERO, "full ones do not wait");
        queue.push(span());
        assert_eq!(batch(&mut spans, &stop).await.len(), 1);
        assert_eq!(begun.elapsed(), COMPANY);
    }

    #[tokio::test]
    async fn what_is_not_sent_at_the_end_is_counted_and_nothing_goes_in_any_more() {
        let (queue, mut spans) = Queue::new();
        queue.push(span());
        queue.push(span());
        queue.settle(1, &Taken::default());
        assert_eq!(queue.abandon(), 1);
        queue.push(span());
        assert_eq!(queue.abandon(), 0);
        let stop = CancellationToken::new();
        stop.cancel();
        assert_eq!(batch(&mut spans, &stop).await.len(), 2, "what went in before");
        assert!(batch(&mut spans, &stop).await.is_empty());
    }
}
