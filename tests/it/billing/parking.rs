//! A subscription of somebody unknown is put aside while an operator says for whom they pay: whoever is first, it ends with the
//! tenant. A superuser's lock holds one of them where it would have to be unlucky to be.

use tenantry_accounts::billing::walk::Name;
use tenantry_fake_stripe::{ApiFaults, WebhookFaults};

use super::{SOON, Stage, id, walked};
use crate::{app::eventually, cli::tenantry, node::connect};

/// Somebody who pays for nobody yet, and their subscription.
async fn stranger(stage: &Stage) -> (String, String) {
    let customer = id(&stage.call("POST", "/v1/customers", &[("name", "Somebody")]));
    stage.give_card(&customer);
    let subscription = stage.subscribe(&customer, 1);
    (customer, subscription)
}

impl Stage {
    /// A lock that is held until `rollback`.
    async fn hold(&self, sql: &str) -> tokio_postgres::Client {
        let row = self.database.query_one("select current_database()::text", &[]).await.unwrap();
        let holder = connect(row.get(0)).await;
        holder.batch_execute(&format!("begin; {sql}")).await.unwrap();
        holder
    }

    /// Waits until so many stand before locks.
    async fn standing(&self, n: i64) {
        let waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        eventually(SOON, async || self.database.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) >= n)
            .await;
    }

    /// `tenantry stripe link`, beside.
    fn link(&self, customer: &str) -> tokio::task::JoinHandle<()> {
        let url = self.app.config().database_url().unwrap().to_owned();
        let (stripe, slug, customer) = (self.fake.url(), self.app.slug.clone(), customer.to_owned());
        let prices = format!("{}=pro", self.prices[1]);
        tokio::task::spawn_blocking(move || {
            let settings = [
                ("DATABASE_URL", url.as_str()),
                ("STRIPE_SECRET_KEY", "sk_test_1"),
                ("STRIPE_API_BASE", &stripe),
                ("STRIPE_PRICES", &prices),
            ];
            let output = tenantry(&["stripe", "link", &slug, &customer], &settings);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        })
    }

    /// Links while somebody stands before the lock that `holder` has, and gives that back when the one who links waits, too.
    async fn linked_meanwhile(&self, customer: &str, holder: tokio_postgres::Client) {
        self.standing(1).await;
        let link = self.link(customer);
        self.standing(2).await;
        holder.batch_execute("rollback").await.unwrap();
        link.await.unwrap();
    }

    async fn is_the_tenants(&self) {
        assert_eq!(self.seen().await, ("active".into(), self.prices[1].clone(), "pro".into()));
        assert_eq!(self.nobodys().await.0, 0);
    }
}

/// The fetch has found nobody, and is about to say so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn linked_while_it_is_being_parked_it_is_the_tenants() {
    let stage = Stage::alone().await;
    let (customer, subscription) = stranger(&stage).await;
    stage.fake.deliver().await;
    let lock = format!("select from tenantry.stripe_objects where id = '{subscription}' for update");
    let holder = stage.hold(&lock).await;
    tokio::join!(stage.run_all_jobs(), stage.linked_meanwhile(&customer, holder));

    stage.run_all_jobs().await;
    stage.is_the_tenants().await;
}

/// The link is not committed yet, before and after it has looked for what there is of the customer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parked_while_it_is_being_linked_it_is_the_tenants() {
    for after in [false, true] {
        let stage = Stage::alone().await;
        let (customer, subscription) = stranger(&stage).await;
        stage.fake.deliver().await;
        let lock = if after {
            // The same job, which is not to be seen yet.
            let payload = format!(r#"{{"subscription_id": "{subscription}", "if_dirty": false}}"#);
            let tenant = stage.app.tenant;
            format!(
                "select tenantry.enqueue_job('sync_subscription', '{payload}', '{tenant}', unique_key => '{subscription}')"
            )
        } else {
            // The trail comes before the look.
            "lock table tenantry.audit_events in share row exclusive mode".into()
        };
        let holder = stage.hold(&lock).await;
        let link = stage.link(&customer);
        stage.standing(1).await;
        tokio::join!(stage.run_all_jobs(), async {
            stage.standing(2).await;
            holder.batch_execute("rollback").await.unwrap();
        });
        link.await.unwrap();

        stage.run_all_jobs().await;
        stage.is_the_tenants().await;
    }
}

/// A walk comes by what no event has told of: while it puts that aside nobody else sees that it is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn linked_while_a_walk_parks_what_nobody_knew_it_is_the_tenants() {
    let stage = Stage::alone().await;
    stage.faults(ApiFaults::default(), WebhookFaults { lost: 1.0, ..WebhookFaults::default() });
    let (customer, subscription) = stranger(&stage).await;
    let lock = format!("insert into tenantry.stripe_objects (id) values ('{subscription}')");
    let holder = stage.hold(&lock).await;
    let (house, client) = (stage.house(), stage.client());
    let walk = walked(house, &client, Name::Subscriptions);
    let (seen, ()) = tokio::join!(walk, stage.linked_meanwhile(&customer, holder));
    assert_eq!(seen.seen, 1);
    stage.run_all_jobs().await;
    stage.is_the_tenants().await;
}
