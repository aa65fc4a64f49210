//! Taking in all that Stripe has, on a database of the test's own: how far it is, what stops it, and how it goes on.

use std::time::Duration;

use tenantry::dev::signal;
use tenantry_accounts::billing::walk::Name;
use tenantry_fake_stripe::{ApiFaults, WebhookFaults};
use tenantry_workers::stripe::{Seen, step};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout},
};

use super::Stage;
use crate::app::eventually;

const BACKFILL: &str =
    "select tenantry.enqueue_job('stripe_backfill', '{}', '00000000-0000-0000-0000-000000000000')";
const CUSTOMERS: &str = "GET /v1/customers";
const SUBSCRIPTIONS: &str = "GET /v1/subscriptions";

impl Stage {
    /// `tenantry stripe backfill` that prints after each step, and its lines.
    fn watched(&self) -> (Child, Lines<BufReader<ChildStdout>>) {
        let mut child = self.process(&["backfill", "--every", "0s"]).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines)
    }

    /// So many customers with the stage's own, each a day younger than the one before.
    fn customers(&self, n: usize) {
        self.deaf_to_all();
        for _ in 1..n {
            self.fake.advance(86_400);
            self.call("POST", "/v1/customers", &[]);
        }
    }

    fn deaf_to_all(&self) {
        self.faults(ApiFaults::default(), WebhookFaults { lost: 1.0, ..WebhookFaults::default() });
    }

    /// Stripe takes so many milliseconds.
    fn slow(&self, milliseconds: u64) {
        let api = ApiFaults { latency_ms: (milliseconds, milliseconds), ..ApiFaults::default() };
        self.faults(api, WebhookFaults { lost: 1.0, ..WebhookFaults::default() });
    }

    /// Takes a step; what it has seen.
    async fn step(&self, name: Name) -> Seen {
        step(self.house(), &self.client(), name).await.unwrap().1
    }

    /// Runs the due jobs, each of which takes one step of each of its walks.
    pub(super) async fn run_jobs_by_step(&self) {
        let mut handlers = tenantry::server::handlers(self.house(), &self.app.config()).unwrap();
        handlers.stretch = Duration::ZERO;
        tenantry_queue::run_due(self.house().db.pool(), None, handlers.handler()).await.unwrap();
    }
}

/// The first line that has `part` in it.
async fn line_with(lines: &mut Lines<BufReader<ChildStdout>>, part: &str) -> String {
    let mut before = vec![];
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.contains(part) {
            return line;
        }
        before.push(line);
    }
    panic!("no {part:?} in {before:#?}");
}

#[tokio::test]
async fn customers_and_subscriptions_are_all_taken_in() {
    let stage = Stage::alone().await;
    stage.deaf_to_all();
    for n in 0..250 {
        stage.subscribe(&stage.customer, 1);
        if n % 2 == 0 {
            stage.stranger();
        }
    }

    let said = stage.command(&["backfill"]).await;

    // Of the tenant's own it knew.
    assert!(said.contains("126 customers taken in, 125 of them not known before"), "{said}");
    assert!(said.contains("250 subscriptions taken in, 250 of them new or changed"), "{said}");
    assert!(said.contains("125 customers pay for nobody"), "{said}");
    let stored = "select count(*) from tenantry.subscriptions where tenant_id = $1";
    assert_eq!((stage.count(stored, &stage.app.tenant).await, stage.plan().await.as_str()), (250, "pro"));
    // Once more, nothing is new.
    let said = stage.command(&["backfill"]).await;
    assert!(
        said.contains("126 customers taken in, 0 of") && said.contains("250 subscriptions taken in, 0 of"),
        "{said}"
    );
}

#[tokio::test]
async fn how_far_it_is_is_told_by_when_things_were_made() {
    let stage = Stage::alone().await;
    stage.customers(301);
    assert!(stage.command(&["status"]).await.contains("customers: never"));

    let (mut child, mut lines) = stage.watched();
    let line = line_with(&mut lines, "100 customers").await;
    assert!(line.contains("about 32 %") || line.contains("about 33 %"), "{line}");
    assert!(line.contains("about ") && line.contains(" left"), "{line}");
    let line = line_with(&mut lines, "300 customers").await;
    assert!(line.contains("about 98 %") || line.contains("about 99 %"), "{line}");
    line_with(&mut lines, "301 customers taken in").await;
    assert!(child.wait().await.unwrap().success());
    // Four pages of them and one without subscriptions, and a few questions for the oldest.
    assert!((4..=4 + 13).contains(&stage.requests(CUSTOMERS)), "{}", stage.requests(CUSTOMERS));
    assert_eq!(stage.requests(SUBSCRIPTIONS), 1);

    // Of a walk in a worker as well.
    stage.database.execute(BACKFILL, &[]).await.unwrap();
    stage.run_jobs_by_step().await;
    let said = stage.command(&["status"]).await;
    assert!(said.contains("100 customers, about 3") && said.contains(" left"), "{said}");
    // It says so when nobody goes on with it.
    let long_ago =
        "update tenantry.stripe_cursors set moved_at = now() - interval '1 h' where name = 'customers'";
    stage.database.execute(long_ago, &[]).await.unwrap();
    let said = stage.command(&["status"]).await;
    assert!(said.contains("stands still since"), "{said}");
}

#[tokio::test]
async fn a_backfill_that_is_killed_goes_on_where_it_was() {
    let stage = Stage::alone().await;
    stage.customers(401);
    stage.slow(100);
    let (mut child, mut lines) = stage.watched();
    line_with(&mut lines, "200 customers").await;
    child.kill().await.unwrap();
    let before = stage.requests(CUSTOMERS);
    let done = stage.walk(Name::Customers).await.done;
    assert!((200..400).contains(&done), "{done}");

    let said = stage.command(&["backfill"]).await;

    assert!(said.contains(&format!("going on after {done} customers")), "{said}");
    assert!(said.contains("401 customers taken in"), "{said}");
    let pages = (401 - done).unsigned_abs().div_ceil(100);
    // One may have been under way when it was killed.
    let asked = stage.requests(CUSTOMERS) - before;
    assert!((pages..=pages + 1).contains(&asked), "{asked} requests for {pages} pages");
}

#[tokio::test]
async fn what_passes_is_waited_out_and_said() {
    let stage = Stage::alone().await;
    stage.customers(201);
    stage.faults(ApiFaults { failed: 1.0, ..ApiFaults::default() }, WebhookFaults::default());
    let (mut child, mut lines) = stage.watched();
    let line = line_with(&mut lines, "asking again in").await;
    assert!(line.contains("stripe answered 500"), "{line}");
    line_with(&mut lines, "asking again in 2 seconds").await;
    stage.faults(ApiFaults { rate_limited: 1.0, ..ApiFaults::default() }, WebhookFaults::default());
    line_with(&mut lines, "stripe answered 429").await;
    stage.deaf_to_all();

    line_with(&mut lines, "201 customers taken in").await;
    assert!(child.wait().await.unwrap().success());
}

#[tokio::test]
async fn what_does_not_pass_ends_it_and_says_how_to_go_on() {
    let stage = Stage::alone().await;
    let output = stage.process(&["backfill"]).env("STRIPE_SECRET_KEY", "no_key").output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("stripe refused with 401") && said.contains("goes on from there"), "{said}");
}

#[tokio::test]
async fn one_that_is_interrupted_says_how_to_go_on() {
    let stage = Stage::alone().await;
    stage.customers(401);
    stage.slow(100);
    let (child, mut lines) = stage.watched();
    line_with(&mut lines, "100 customers").await;
    signal(child.id().unwrap(), "INT");
    let output = child.wait_with_output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("stopped among the customers"), "{said}");
    assert!(said.contains("`tenantry stripe backfill` goes on from there"), "{said}");

    let said = stage.command(&["backfill"]).await;
    assert!(said.contains("going on after") && said.contains("401 customers taken in"), "{said}");
}

#[tokio::test]
async fn two_at_the_same_time_do_no_harm() {
    let stage = Stage::alone().await;
    stage.customers(301);
    for _ in 0..220 {
        stage.subscribe(&stage.customer, 1);
    }
    stage.slow(50);
    stage.database.execute(BACKFILL, &[]).await.unwrap();
    let (mut child, mut lines) = stage.watched();
    // It warns of each: so many are paid for by one.
    let mut warnings = child.stderr.take().unwrap();
    tokio::spawn(async move { tokio::io::copy(&mut warnings, &mut tokio::io::sink()).await });
    line_with(&mut lines, "00 customers").await;

    // The job goes along, step by step, and is done with it when the command is.
    let open = "select count(*) from tenantry.jobs where kind = $1 and state <> 'done'";
    while stage.count(open, &"stripe_backfill").await > 0 {
        stage.run_jobs_by_step().await;
    }
    let said = line_with(&mut lines, "subscriptions taken in").await;
    assert!(child.wait().await.unwrap().success());

    assert!(said.starts_with("220 subscriptions"), "{said}");
    for (name, n) in [(Name::Customers, 301), (Name::Subscriptions, 220)] {
        let walk = stage.walk(name).await;
        assert!(walk.done == n && walk.ended_at.is_some(), "{walk:?}");
    }
    assert_eq!(stage.plan().await, "pro");
    let stored = "select count(*) from tenantry.subscriptions where tenant_id = $1 and version = 1";
    assert_eq!(stage.count(stored, &stage.app.tenant).await, 220);
}

#[tokio::test]
async fn it_goes_on_by_time_when_what_it_stopped_after_is_gone() {
    let stage = Stage::alone().await;
    stage.customers(301);
    assert_eq!(stage.step(Name::Customers).await.seen, 100);
    let place = stage.walk(Name::Customers).await.position.unwrap();
    stage.call("DELETE", &format!("/v1/customers/{place}"), &[]);
    let refused = stage.fake.call("GET", "/v1/customers", &[("starting_after", &place)]).unwrap_err();
    assert_eq!(refused["error"]["code"], "resource_missing", "as Stripe does");

    let rest = [stage.step(Name::Customers).await.seen, stage.step(Name::Customers).await.seen];
    assert_eq!(rest, [100, 100]);
    assert_eq!(stage.step(Name::Customers).await.seen, 1);
    let walk = stage.walk(Name::Customers).await;
    assert!(walk.ended_at.is_some() && walk.done == 301, "{walk:?}");
}

#[tokio::test]
async fn a_step_that_fails_moves_nothing_and_the_next_does() {
    let stage = Stage::alone().await;
    stage.deaf_to_all();
    for _ in 0..150 {
        stage.subscribe(&stage.customer, 1);
    }
    assert_eq!(stage.step(Name::Subscriptions).await, Seen { seen: 100, changed: 100, linked: 0 });
    let before = stage.walk(Name::Subscriptions).await;
    stage.faults(ApiFaults { failed: 1.0, ..ApiFaults::default() }, WebhookFaults::default());
    step(stage.house(), &stage.client(), Name::Subscriptions).await.unwrap_err();
    let after = stage.walk(Name::Subscriptions).await;
    assert_eq!((after.position, after.done), (before.position, before.done));
    stage.deaf_to_all();

    assert_eq!(stage.step(Name::Subscriptions).await, Seen { seen: 50, changed: 50, linked: 0 });
    // One that has ended takes no more steps until it is begun anew.
    assert_eq!(stage.step(Name::Subscriptions).await, Seen::default());
    eventually(super::SOON, async || stage.plan().await == "pro").await;
}
