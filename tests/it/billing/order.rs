//! Fetches that overtake each other, and events during them.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::Value;
use tenantry_accounts::billing::sync::{Applied, Begun, Fetched, apply, begin};

use super::{Stage, as_stored, found};

#[tokio::test]
async fn a_fetch_that_began_earlier_is_dropped_when_it_comes_later() {
    let stage = Stage::new().await;
    let subscription = stage.subscribe(&stage.customer, 1);
    let (house, name) = (stage.house(), subscription.as_str());
    let slow = begin(house, name).await.unwrap();
    let old = stage.truth(name);
    stage.change_plan(name, 2);
    let fast = begin(house, name).await.unwrap();
    let new = stage.truth(name);

    assert_eq!(apply(house, name, &fast, found(&new), None).await.unwrap(), Applied::Changed);
    assert_eq!(apply(house, name, &slow, found(&old), None).await.unwrap(), Applied::Overtaken);

    assert_eq!(stage.seen().await, ("active".into(), stage.prices[2].clone(), "enterprise".into()));
}

#[tokio::test]
async fn an_event_during_a_fetch_leads_to_another() {
    let stage = Stage::new().await;
    let subscription = stage.subscribe(&stage.customer, 1);
    stage.fake.deliver().await;
    let (house, name) = (stage.house(), subscription.as_str());
    let begun = begin(house, name).await.unwrap();
    let old = stage.truth(name);
    stage.change_plan(name, 2);
    stage.fake.deliver().await;
    // Whoever has the job in hand is the one who fetches above.
    let done = "update tenantry.jobs set state = 'done', ready = false, finished_at = now() where kind = 'sync_subscription' and tenant_id = $1";
    stage.database.execute(done, &[&stage.app.tenant]).await.unwrap();

    assert_eq!(apply(house, name, &begun, found(&old), None).await.unwrap(), Applied::Changed);
    assert_eq!(stage.seen().await.2, "pro");
    stage.app.run_jobs().await;

    assert_eq!(stage.seen().await.2, "enterprise");
}

#[tokio::test]
async fn what_has_ended_never_comes_back() {
    let stage = Stage::new().await;
    let subscription = stage.subscribe(&stage.customer, 1);
    let (house, name) = (stage.house(), subscription.as_str());
    let alive = stage.truth(name);
    stage.call("DELETE", &format!("/v1/subscriptions/{name}"), &[]);
    stage.delivered().await;
    assert_eq!(stage.seen().await.0, "canceled");

    // A copy of Stripe's that lags behind answers a later fetch.
    let begun = begin(house, name).await.unwrap();
    assert_eq!(apply(house, name, &begun, found(&alive), None).await.unwrap(), Applied::Same);

    assert_eq!((stage.seen().await.0.as_str(), stage.plan().await.as_str()), ("canceled", "basic"));
}

#[tokio::test]
async fn what_stripe_does_not_find_has_ended_until_it_does() {
    let stage = Stage::new().await;
    let subscription = stage.subscribe(&stage.customer, 1);
    stage.delivered().await;
    let (house, name) = (stage.house(), subscription.as_str());

    // As with the key of another account.
    let begun = begin(house, name).await.unwrap();
    apply(house, name, &begun, Fetched::Gone, None).await.unwrap();
    assert_eq!((stage.seen().await.0.as_str(), stage.plan().await.as_str()), ("canceled", "basic"));
    let begun = begin(house, name).await.unwrap();
    apply(house, name, &begun, found(&stage.truth(name)), None).await.unwrap();

    assert_eq!((stage.seen().await.0.as_str(), stage.plan().await.as_str()), ("active", "pro"));
}

/// What is under way in one run of the property test.
#[derive(Default)]
struct UnderWay {
    /// Fetches that Stripe has been asked by but has not answered yet.
    asked: Vec<(usize, Begun)>,
    /// Answers that have not been applied yet.
    answered: Vec<(usize, Begun, Value)>,
    events: Vec<Value>,
    /// The number and the answer of what should be stored now.
    latest: Option<(usize, Value)>,
    fetches: usize,
}

/// Whatever the order in which changes, events, fetches, answers and their application come: what is stored is what the
/// fetch brought that began last of those that were applied, and when all jobs are done it is what Stripe has.
#[tokio::test]
async fn in_whatever_order_the_fetch_that_began_last_wins() {
    let stage = Stage::new().await;
    let seed = rand::rng().random_range(1..1_000_000);
    println!("seed {seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    for _ in 0..12 {
        let subscription = stage.subscribe(&stage.customer, 1);
        let mut now = UnderWay::default();
        now.events.push(stage.event("customer.subscription.created"));
        for _ in 0..40 {
            step(&stage, &subscription, &mut now, &mut chance).await;
        }
        let stored = stage.stored(&subscription).await;
        assert_eq!(stored, now.latest.as_ref().map(|(_, answer)| as_stored(answer)), "seed {seed}");

        // The rest of its events comes, if any is left, and what was still under way is lost.
        for event in &now.events {
            stage.take_in(event).await;
        }
        stage.app.run_jobs().await;
        let truth = as_stored(&stage.truth(&subscription));
        assert_eq!(stage.stored(&subscription).await, Some(truth), "seed {seed}");
    }
}

async fn step(stage: &Stage, name: &str, now: &mut UnderWay, chance: &mut StdRng) {
    let house = stage.house();
    match chance.random_range(0..10) {
        0..3 => {
            stage.change(name, &[("metadata[n]", &chance.random::<u32>().to_string())]);
            now.events.push(stage.event("customer.subscription.updated"));
        }
        3..4 => {
            now.events.shuffle(chance);
            if let Some(event) = now.events.pop() {
                stage.take_in(&event).await;
            }
        }
        4..6 => {
            now.fetches += 1;
            now.asked.push((now.fetches, begin(house, name).await.unwrap()));
        }
        6..8 => {
            now.asked.shuffle(chance);
            if let Some((number, begun)) = now.asked.pop() {
                now.answered.push((number, begun, stage.truth(name)));
            }
        }
        _ => {
            now.answered.shuffle(chance);
            let Some((number, begun, answer)) = now.answered.pop() else { return };
            let applied = apply(house, name, &begun, found(&answer), None).await.unwrap();
            let overtaken = now.latest.as_ref().is_some_and(|(latest, _)| *latest > number);
            assert_eq!(applied == Applied::Overtaken, overtaken);
            if !overtaken {
                now.latest = Some((number, answer));
            }
        }
    }
}

impl Stage {
    async fn stored(&self, subscription: &str) -> Option<Value> {
        let sql = "select raw from tenantry.subscriptions where tenant_id = $1 and stripe_id = $2";
        let row = self.database.query_opt(sql, &[&self.app.tenant, &subscription]).await.unwrap();
        row.map(|row| row.get(0))
    }
}
