//! What was missed: events that were not delivered, and whatever else differs, on a database of the test's own.

use chrono::{TimeDelta, Utc};
use tenantry_accounts::billing::walk::Name;
use tenantry_fake_stripe::{ApiFaults, WebhookFaults};

use super::{Stage, id};

const RECONCILE: &str =
    "select tenantry.enqueue_job('stripe_reconcile', '{}', '00000000-0000-0000-0000-000000000000')";

impl Stage {
    async fn reconcile(&self) {
        self.database.execute(RECONCILE, &[]).await.unwrap();
        self.run_all_jobs().await;
    }

    /// The same by one job that waits, a page of events and one of subscriptions at a time.
    async fn reconcile_by_step(&self) {
        let due = "update tenantry.jobs set run_at = now(), ready = true
                   where kind = 'stripe_reconcile' and state in ('pending', 'failed')";
        if self.database.execute(due, &[]).await.unwrap() == 0 {
            self.database.execute(RECONCILE, &[]).await.unwrap();
        }
        self.run_jobs_by_step().await;
    }

    async fn is_taken_in(&self, event: &str) -> bool {
        self.count("select count(*) from tenantry.stripe_events where id = $1", &event).await > 0
    }
}

#[tokio::test]
async fn lost_events_are_found_and_what_differs_is_put_right() {
    let stage = Stage::alone().await;
    let subscription = stage.subscribe(&stage.customer, 1);
    stage.delivered().await;
    stage.faults(ApiFaults::default(), WebhookFaults { lost: 1.0, ..WebhookFaults::default() });
    stage.change_plan(&subscription, 2);
    stage.delivered().await;
    assert_eq!(stage.plan().await, "pro", "nothing is known of it");

    stage.reconcile().await;

    assert_eq!(stage.seen().await, ("active".into(), stage.prices[2].clone(), "enterprise".into()));
    let walk = stage.walk(Name::Comparison).await;
    assert!(walk.ended_at.is_some() && walk.done == 1, "{walk:?}");

    // Not even an event tells of what somebody did to our own rows.
    let wrong = "update tenantry.subscriptions set status = 'canceled'";
    stage.database.execute(wrong, &[]).await.unwrap();
    stage.database.execute("update tenantry.subscription_items set quantity = 9", &[]).await.unwrap();
    stage.reconcile().await;
    assert_eq!(stage.seen().await.0, "canceled", "all are compared once a day");
    let said = stage.command(&["reconcile"]).await;
    assert!(said.contains("1 were different"), "{said}");
    let billing = stage.billing().await;
    assert_eq!(
        (&billing["subscriptions"][0]["status"], &billing["subscriptions"][0]["items"][0]["quantity"]),
        (&"active".into(), &1.into())
    );
}

#[tokio::test]
async fn a_comparison_lets_plans_follow_what_prices_give_now() {
    let stage = Stage::alone().await;
    stage.subscribe(&stage.customer, 1);
    stage.delivered().await;
    assert_eq!(stage.plan().await, "pro");
    let reconcile = async |gives: &str| {
        let mut command = stage.process(&["reconcile"]);
        let output =
            command.env("STRIPE_PRICES", format!("{}={gives}", stage.prices[1])).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };

    let said = reconcile("enterprise").await;
    assert!(said.contains("0 were different"), "the subscription itself is as it was: {said}");
    assert_eq!(stage.plan().await, "enterprise");
    // What an operator sets stays until it gives another plan than before.
    let by_hand = "update tenantry.tenants set plan = 'basic' where id = $1";
    stage.database.execute(by_hand, &[&stage.app.tenant]).await.unwrap();
    reconcile("enterprise").await;
    assert_eq!(stage.plan().await, "basic");
}

impl Stage {
    /// So many events of a subscription.
    fn changed(&self, subscription: &str, times: usize) {
        for n in 0..times {
            self.change(subscription, &[("metadata[n]", &format!("{n} of {times}"))]);
        }
    }
}

/// The walk through events goes on where it stopped, and the comparison has its turn meanwhile.
#[tokio::test]
async fn many_events_take_many_turns_and_nothing_waits_for_their_end() {
    let stage = Stage::alone().await;
    let subscription = stage.subscribe(&stage.customer, 1);
    stage.delivered().await;
    stage.faults(ApiFaults::default(), WebhookFaults { lost: 1.0, ..WebhookFaults::default() });
    stage.change_plan(&subscription, 2);
    let oldest = id(&stage.event("customer.subscription.updated"));
    stage.changed(&subscription, 260);

    stage.reconcile_by_step().await;
    assert_eq!(stage.plan().await, "enterprise", "the comparison has had its turn");
    let begun = stage.walk(Name::Events).await;
    assert!(begun.ended_at.is_none() && begun.done == 100 && !stage.is_taken_in(&oldest).await, "{begun:?}");
    assert!(stage.command(&["status"]).await.contains("100 events"));

    // Stripe is away: neither place nor window move. What happens meanwhile is for the next.
    stage.faults(ApiFaults { failed: 1.0, ..ApiFaults::default() }, WebhookFaults::default());
    stage.reconcile_by_step().await;
    stage.faults(ApiFaults::default(), WebhookFaults { lost: 1.0, ..WebhookFaults::default() });
    let after = stage.walk(Name::Events).await;
    assert_eq!((&after.position, after.done, after.since), (&begun.position, 100, begun.since));
    stage.changed(&subscription, 1);
    let newest = id(&stage.event("customer.subscription.updated"));
    let before = stage.requests("GET /v1/events");
    while stage.walk(Name::Events).await.ended_at.is_none() {
        stage.reconcile_by_step().await;
    }
    let walk = stage.walk(Name::Events).await;
    let pages = walk.done.unsigned_abs().div_ceil(100) - 1;
    assert_eq!(stage.requests("GET /v1/events") - before, pages, "none is asked for twice: {walk:?}");
    assert!(stage.is_taken_in(&oldest).await && !stage.is_taken_in(&newest).await);
    assert_eq!(walk.started_at, begun.started_at);

    stage.reconcile().await;
    assert!(stage.is_taken_in(&newest).await);
    let next = stage.walk(Name::Events).await;
    assert_eq!(next.changed, 1, "of all that are in both, one was new");
    assert_eq!(next.since.unwrap(), begun.started_at - TimeDelta::minutes(10));
}

#[tokio::test]
async fn a_walk_through_events_goes_on_when_its_place_is_no_longer_listed() {
    let stage = Stage::alone().await;
    stage.faults(ApiFaults::default(), WebhookFaults { lost: 1.0, ..WebhookFaults::default() });
    let subscription = stage.subscribe(&stage.customer, 1);
    stage.changed(&subscription, 120);
    stage.reconcile_by_step().await;
    assert_eq!(stage.walk(Name::Events).await.done, 100);
    stage.fake.advance(31 * 86_400);

    stage.reconcile_by_step().await;

    let walk = stage.walk(Name::Events).await;
    assert!(walk.ended_at.is_some() && walk.done == 100, "none of the others is listed any more: {walk:?}");
}

#[tokio::test]
async fn what_stripe_lists_no_more_is_said() {
    let stage = Stage::alone().await;
    let said = stage.command(&["reconcile", "--since", "60d"]).await;
    assert!(said.contains("Stripe lists no events of before"), "{said}");
    let said = stage.command(&["reconcile"]).await;
    assert!(!said.contains("lists no events"), "{said}");

    // Nobody has asked for longer than that.
    let long_ago =
        "update tenantry.stripe_cursors set started_at = now() - interval '40 days' where name = 'events'";
    stage.database.execute(long_ago, &[]).await.unwrap();
    stage.reconcile().await;
    let since = Utc::now() - stage.walk(Name::Events).await.since.unwrap();
    assert!((TimeDelta::days(28)..TimeDelta::days(30)).contains(&since), "{since}");
}

#[tokio::test]
async fn a_comparison_that_was_stopped_is_begun_anew_unless_somebody_asks_for_the_rest() {
    let stage = Stage::alone().await;
    stage.faults(ApiFaults::default(), WebhookFaults { lost: 1.0, ..WebhookFaults::default() });
    for _ in 0..120 {
        stage.subscribe(&stage.customer, 1);
    }
    stage.reconcile_by_step().await;
    let begun = stage.walk(Name::Comparison).await;
    assert!(begun.done == 100 && begun.ended_at.is_none(), "{begun:?}");

    let said = stage.command(&["reconcile", "--resume"]).await;
    assert!(said.contains("120 subscriptions compared"), "{said}");
    let walk = stage.walk(Name::Comparison).await;
    assert_eq!((walk.done, walk.started_at), (120, begun.started_at));
    assert!(stage.command(&["reconcile"]).await.contains("120 subscriptions compared, 0 were different"));
    assert!(stage.walk(Name::Comparison).await.started_at > begun.started_at);
}

#[tokio::test]
async fn what_stripe_does_not_list_is_asked_for_by_itself() {
    let stage = Stage::alone().await;
    stage.subscribe(&stage.customer, 1);
    stage.delivered().await;
    assert_eq!(stage.plan().await, "pro");
    // As with the key of an account that has nothing.
    stage.fake.clear();

    stage.command(&["reconcile"]).await;
    stage.run_all_jobs().await;

    assert_eq!((stage.seen().await.0.as_str(), stage.plan().await.as_str()), ("canceled", "basic"));
}
