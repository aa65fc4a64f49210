//! How long a webhook takes, and how fast all is taken in again.

use std::time::Duration;

use hmac::{Hmac, Mac};
use serde_json::json;
use tenantry_fake_stripe::Fake;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{Result, check::Check, cluster::Cluster};

const RATE: u32 = 200;
const SECONDS: u32 = 10;

/// Events of subscriptions that are known, at a steady rate, each as late as it was to be sent.
pub(crate) async fn webhooks(cluster: &Cluster, fake: &Fake) -> Result<String> {
    let http = reqwest::Client::new();
    let truth = fake.truth();
    let mut clock = interval(Duration::from_secs(1) / RATE);
    clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut sent = JoinSet::new();
    for n in 0..RATE * SECONDS {
        let due = clock.tick().await;
        let object = &truth[n as usize % truth.len()];
        let now = chrono::Utc::now().timestamp();
        let event = json!({
            "id": format!("evt_measured{n}"), "object": "event", "type": "customer.subscription.updated",
            "created": now, "data": {"object": object},
        });
        let body = event.to_string();
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(fake.secret().as_bytes())?;
        mac.update(format!("{now}.{body}").as_bytes());
        let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let request = http.post(cluster.webhook()).header("Content-Type", "application/json");
        let request = request.header("Stripe-Signature", format!("t={now},v1={hex}")).body(body);
        sent.spawn(async move {
            let taken = request.send().await.is_ok_and(|answer| answer.status().is_success());
            (taken, due.elapsed())
        });
    }
    let answers = sent.join_all().await;
    let mut times: Vec<_> = answers.iter().map(|(_, time)| *time).collect();
    times.sort();
    let percentile = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    let seen = format!(
        "       {} webhooks at {RATE} a second, {} refused: p50 {:.1} ms, p99 {:.1} ms",
        times.len(),
        answers.iter().filter(|(taken, _)| !taken).count(),
        percentile(0.5),
        percentile(0.99)
    );
    cluster.drain().await?;
    Ok(seen)
}

/// All customers and subscriptions by one job: as if none had ever been seen, and once more.
pub(crate) async fn backfill(cluster: &Cluster, check: &mut Check, subscriptions: i64) -> Result<()> {
    let forget = "truncate tenantry.subscriptions, tenantry.subscription_items, tenantry.entitlements,
                    tenantry.stripe_objects, tenantry.stripe_customers, tenantry.stripe_cursors";
    cluster.database().batch_execute(forget).await?;
    for how in ["for the first time", "again"] {
        let begun = Instant::now();
        cluster.backfill().await?;
        cluster.drain().await?;
        let seconds = begun.elapsed().as_secs_f64();
        let taken_in = cluster.taken_in().await?;
        check.that(
            &format!("all is taken in {how}"),
            taken_in == [subscriptions; 2],
            format!(
                "{taken_in:?} customers and subscriptions within {seconds:.1} s: {:.0} of both a second",
                taken_in.iter().sum::<i64>() as f64 / seconds
            ),
        );
    }
    Ok(())
}
