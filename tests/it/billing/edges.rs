//! At the edges: what tenants may not do to their own state, closed tenants, faults of Stripe's, what is no change.

use std::num::NonZeroU32;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tenantry_fake_stripe::{ApiFaults, WebhookFaults};
use tenantry_stripe::{Client, Error, Settings};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::Stage;
use crate::app::{answer, wrong_fields};

/// One that waits for years under the key that events use would take the place of all that they make.
#[tokio::test]
async fn an_administrator_cannot_keep_a_subscription_from_being_fetched() {
    let stage = Stage::new().await;
    let subscription = stage.subscribe(&stage.customer, 1);
    stage.delivered().await;

    for own in [
        json!({"unique_key": subscription}),
        json!({"unique_key": format!("settle:{subscription}")}),
        json!({"run_at": "2099-01-01T00:00:00Z"}),
        json!({"priority": -1000}),
    ] {
        let mut job = json!({"kind": "sync_subscription", "payload": {"subscription_id": subscription}});
        job.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        let (status, refused) = stage.app.post("/api/v1/jobs", &job).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{own}: {refused}");
        assert_eq!(wrong_fields(&refused)[0].0, "/payload", "{refused}");
    }
    stage.call("DELETE", &format!("/v1/subscriptions/{subscription}"), &[]);
    stage.delivered().await;
    assert_eq!(stage.plan().await, "basic");
}

#[tokio::test]
async fn what_a_closed_tenant_pays_for_ends_with_the_period_that_is_paid() {
    let stage = Stage::new().await;
    let subscription = stage.subscribe(&stage.customer, 1);
    stage.delivered().await;
    let path = format!("/api/v1/tenants/{}", stage.app.tenant);
    let (_, tenant) = stage.app.get(&path).await;
    let version = tenant["data"]["version"].to_string();

    let close = stage.app.request(Method::DELETE, &path).header("if-match", format!("\"{version}\""));
    let (status, closed) = answer(close).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "{closed}");
    stage.faults(ApiFaults { failed: 1.0, ..ApiFaults::default() }, WebhookFaults::default());
    stage.app.run_jobs().await;
    assert_eq!(stage.renews(&subscription), json!(true), "Stripe had a fault");
    stage.faults(ApiFaults::default(), WebhookFaults::default());
    stage.tried_again("end_subscriptions").await;
    assert_eq!(stage.renews(&subscription), json!(false));
}

/// Stripe answers a key that met a fault with that fault for a day.
#[tokio::test]
async fn the_quantity_is_set_although_stripe_had_a_fault() {
    let stage = Stage::new().await;
    let subscription = stage.subscribe(&stage.customer, 2);
    stage.delivered().await;
    stage.app.create_user("bob@example.org").await;

    for faults in [
        ApiFaults { failed: 1.0, ..ApiFaults::default() },
        ApiFaults { failed_after: 1.0, ..ApiFaults::default() },
    ] {
        stage.faults(faults, WebhookFaults::default());
        stage.tried_again("sync_seats").await;
    }
    stage.faults(ApiFaults::default(), WebhookFaults::default());
    stage.tried_again("sync_seats").await;
    assert_eq!(stage.truth(&subscription)["items"]["data"][0]["quantity"], 2);
}

#[tokio::test]
async fn another_name_of_a_price_is_no_change_of_who_pays_it() {
    let stage = Stage::new().await;
    let subscription = stage.subscribe(&stage.customer, 1);
    stage.delivered().await;
    let before = stage.billing().await;

    stage.call("POST", &format!("/v1/prices/{}", stage.prices[1]), &[("nickname", "The good one")]);
    stage.change(&subscription, &[("metadata[who]", "somebody")]);
    stage.delivered().await;
    assert_eq!(stage.billing().await, before, "its version, too");
    let told =
        "select count(*) from tenantry.audit_events where action = 'subscription.updated' and tenant_id = $1";
    assert_eq!(stage.count(told, &stage.app.tenant).await, 0);
    let sql = "select count(*) from tenantry.subscriptions where tenant_id = $1 and raw -> 'metadata' ->> 'who' = 'somebody'";
    assert_eq!(stage.count(sql, &stage.app.tenant).await, 1, "and yet it is what Stripe last said");
}

/// The job of its event was cancelled, or is dead; the event is known, and will not make another.
#[tokio::test]
async fn what_stays_dirty_is_fetched_in_the_end() {
    let stage = Stage::alone().await;
    let subscription = stage.subscribe(&stage.customer, 1);
    stage.delivered().await;
    stage.change_plan(&subscription, 2);
    stage.fake.deliver().await;
    let cancel = "update tenantry.jobs set state = 'cancelled', ready = false, finished_at = now()
                  where kind = 'sync_subscription' and state = 'pending' and tenant_id = $1";
    assert!(stage.database.execute(cancel, &[&stage.app.tenant]).await.unwrap() > 0);
    let long_ago =
        "update tenantry.stripe_objects set newest_event = now() - interval '1 hour' where id = $1";
    stage.database.execute(long_ago, &[&subscription]).await.unwrap();
    assert_eq!(stage.plan().await, "pro");

    // No event of it is missed, and none differs that the daily comparison would come by: that was today.
    let compared = "insert into tenantry.stripe_cursors (name, ended_at) values ('comparison', now())";
    stage.database.execute(compared, &[]).await.unwrap();
    let reconcile =
        "select tenantry.enqueue_job('stripe_reconcile', '{}', '00000000-0000-0000-0000-000000000000')";
    stage.database.execute(reconcile, &[]).await.unwrap();
    stage.run_all_jobs().await;
    assert_eq!(stage.plan().await, "enterprise");
}

impl Stage {
    /// Whether Stripe will ask for money again.
    fn renews(&self, subscription: &str) -> Value {
        json!(self.truth(subscription)["cancel_at_period_end"] == false)
    }
}

/// What stands between us and Stripe may answer in its place.
#[tokio::test]
async fn what_is_not_found_by_somebody_else_has_not_ended() {
    let somebody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", somebody.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = somebody.accept().await {
            let mut request = [0; 4096];
            let _ = client.read(&mut request).await;
            let page =
                "HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 9\r\n\r\nnot here\n";
            let _ = client.write_all(page.as_bytes()).await;
        }
    });
    let settings = Settings { base, key: "sk_test_1".into(), rate: NonZeroU32::MIN };
    let answer = Client::new(settings).unwrap().subscription("sub_1").await;
    assert!(matches!(answer, Err(Error::Unreadable(_))), "{answer:?}");
}
