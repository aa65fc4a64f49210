//! Which customer pays for whom, on a database of the test's own.

use futures_util::future::join;
use tenantry_accounts::{
    Actor, Error, TenantId,
    billing::{
        customers::{self, link, unlink},
        sync::{Applied, apply, begin},
    },
};
use uuid::Uuid;

use super::{Stage, found, id};
use crate::app::TestApp;

#[tokio::test]
async fn what_nobody_pays_for_is_parked_until_somebody_does() {
    let stage = Stage::alone().await;
    let customer = stage.stranger();
    let subscription = stage.subscribe(&customer, 1);
    stage.fake.deliver().await;
    stage.run_all_jobs().await;
    assert_eq!(stage.nobodys().await, (1, vec![(customer.clone(), 1)]));
    assert_eq!(stage.plan().await, "basic");
    assert!(stage.command(&["status"]).await.contains(&customer));
    // What it says itself is nobody's word.
    stage.change(&subscription, &[("metadata[tenant_id]", &stage.app.tenant.to_string())]);
    stage.fake.deliver().await;
    stage.run_all_jobs().await;
    assert_eq!(stage.plan().await, "basic");

    let said = stage.command(&["link", &stage.app.slug, &customer]).await;
    assert!(said.contains(&customer), "{said}");
    stage.run_all_jobs().await;

    assert_eq!(stage.seen().await, ("active".into(), stage.prices[1].clone(), "pro".into()));
    assert_eq!(stage.nobodys().await, (0, vec![]));
    assert_eq!(stage.app.audited_by("billing.customer_linked").await, [("operator".to_owned(), None)]);
}

#[tokio::test]
async fn a_customer_that_pays_for_another_tenant_now_pays_for_this_one_no_longer() {
    let stage = Stage::alone().await;
    stage.subscribe(&stage.customer, 1);
    stage.delivered().await;
    let (other, stranger) = (stage.neighbour().await, stage.stranger());
    let link = async |tenant, customer| {
        let actor = Actor::operator(TenantId(tenant));
        customers::relink(stage.house(), actor, customer).await.unwrap();
        stage.run_all_jobs().await;
    };

    link(stage.app.tenant, &stranger).await;
    assert_eq!(stage.plan().await, "basic");
    assert_eq!(stage.billing().await["subscriptions"].as_array().unwrap().len(), 0);
    link(other.tenant, &stage.customer).await;

    assert_eq!(stage.plan().await, "basic");
    let (_, theirs) = other.get(&format!("/api/v1/tenants/{}", other.tenant)).await;
    assert_eq!(theirs["data"]["plan"], "pro");
}

#[tokio::test]
async fn a_customer_pays_for_one_tenant() {
    let stage = Stage::alone().await;
    let other = stage.neighbour().await;
    let actor = Actor::operator(TenantId(other.tenant));

    let error = customers::relink(stage.house(), actor, &stage.customer).await.unwrap_err();

    assert!(matches!(error, Error::CustomerTaken), "{error}");
}

impl Stage {
    /// A tenant that waits for its customer, and the mark by which that is found.
    async fn waiting(&self) -> (TestApp, String) {
        let flags: Vec<_> = self.flags.iter().map(String::as_str).collect();
        let app = TestApp::spawn_with(&flags).await;
        let sql = "select key from tenantry.billing_customers where tenant_id = $1 and customer_id is null";
        let mark: Uuid = self.database.query_one(sql, &[&app.tenant]).await.unwrap().get(0);
        (app, mark.to_string())
    }

    /// A tenant that nobody is in.
    async fn empty(&self) -> TenantId {
        let id = Uuid::now_v7();
        let sql = "with made as (insert into tenantry.tenants (id, name, slug) values ($1, 'Empty', $2) returning id)
                   insert into tenantry.tenant_seats (tenant_id, max) select id, 10 from made";
        self.database.execute(sql, &[&id, &format!("t-{}", id.simple())]).await.unwrap();
        TenantId(id)
    }

    fn marked(&self, name: &str, value: &str) -> String {
        let customer = self.call("POST", "/v1/customers", &[(&format!("metadata[{name}]"), value)]);
        self.give_card(&id(&customer));
        id(&customer)
    }
}

/// We died between making a customer and linking it. What else metadata says is nobody's word.
#[tokio::test]
async fn a_customer_that_was_made_and_not_linked_is_found_by_its_mark() {
    let stage = Stage::alone().await;
    let (app, mark) = stage.waiting().await;
    let ours = stage.marked("tenant_key", &mark);
    stage.subscribe(&ours, 1);
    let others = [
        stage.marked("tenant_id", &app.tenant.to_string()),
        stage.marked("tenant_key", &app.tenant.to_string()),
        stage.marked("tenant_key", &Uuid::new_v4().to_string()),
        stage.marked("tenant_key", "no mark"),
        stage.marked("key", &mark),
    ];
    // A mark that was copied gives nobody a second customer.
    let (second, other) = stage.waiting().await;
    let twins = [stage.marked("tenant_key", &other), stage.marked("tenant_key", &other)];

    let said = stage.command(&["backfill"]).await;

    assert!(said.contains("2 were made for tenants and not linked"), "{said}");
    assert_eq!(stage.customer_of(&app).await, ours);
    assert_eq!(app.get(&format!("/api/v1/tenants/{}", app.tenant)).await.1["data"]["plan"], "pro");
    assert!(twins.contains(&stage.customer_of(&second).await));
    let (total, nobodys) = stage.nobodys().await;
    assert_eq!(total, 6, "{nobodys:?}");
    assert!(others.iter().all(|other| nobodys.contains(&(other.clone(), 0))), "{nobodys:?}");
    // The job that was to make it finds it there.
    app.run_jobs().await;
    assert_eq!(stage.customer_of(&app).await, ours);
}

#[tokio::test]
async fn customers_that_pay_for_nobody_are_counted_and_some_are_listed() {
    let stage = Stage::alone().await;
    let strangers: Vec<_> = (0..25).map(|_| stage.stranger()).collect();
    let (busy, gone) = (&strangers[7], &strangers[8]);
    stage.subscribe(busy, 1);
    stage.subscribe(busy, 1);
    stage.command(&["backfill"]).await;

    let said = stage.command(&["status"]).await;
    assert!(said.contains("25 customers pay for nobody") && said.contains("and 5 more"), "{said}");
    let listed: Vec<_> =
        said.lines().filter(|line| line.contains("tenantry stripe link TENANT cus_")).collect();
    assert!(
        listed.len() == 20 && listed[0].contains(busy) && listed[0].contains("2 subscriptions"),
        "{said}"
    );
    // Nothing about the person is kept.
    let kept = "select string_agg(s::text, ' ') from tenantry.stripe_customers s";
    let kept: String = stage.database.query_one(kept, &[]).await.unwrap().get(0);
    assert!(kept.contains(busy) && !kept.contains("Somebody") && !kept.contains('@'), "{kept}");

    // What Stripe lists no more is forgotten by the next.
    stage.call("DELETE", &format!("/v1/customers/{gone}"), &[]);
    stage.command(&["backfill"]).await;
    assert_eq!(stage.nobodys().await.0, 24);
}

/// A customer is linked at the moment at which a subscription of theirs, which nobody has seen before, is found to be nobody's.
#[tokio::test]
async fn what_is_parked_while_its_customer_is_linked_finds_its_tenant() {
    let stage = Stage::alone().await;
    let house = stage.house();
    for round in 0..40 {
        let (tenant, customer) = (stage.empty().await, stage.stranger());
        let subscription = stage.subscribe(&customer, 1);
        let begun = begin(house, &subscription).await.unwrap();
        let answer = stage.truth(&subscription);

        let (applied, linked) =
            join(apply(house, &subscription, &begun, found(&answer), None), link(house, tenant, &customer))
                .await;
        assert_eq!(linked.unwrap(), customer);
        let applied = applied.unwrap();
        assert!([Applied::Parked, Applied::Changed].contains(&applied), "round {round}: {applied:?}");
        stage.run_all_jobs().await;

        let plan = "select plan from tenantry.tenants where id = $1";
        let plan: String = stage.database.query_one(plan, &[&tenant.0]).await.unwrap().get(0);
        assert_eq!(plan, "pro", "round {round}: {applied:?}");
    }
}

#[tokio::test]
async fn a_deleted_customer_is_never_linked_whoever_comes_first() {
    let stage = Stage::alone().await;
    let house = stage.house();
    for round in 0..40 {
        let (tenant, customer) = (stage.empty().await, stage.stranger());

        let (linked, unlinked) = join(link(house, tenant, &customer), unlink(house, &customer)).await;

        match (&linked, unlinked.unwrap()) {
            (Ok(_), Some(of)) => assert_eq!(of, tenant),
            (Err(Error::CustomerDeleted), None) => {}
            (_, of) => panic!("round {round}: {linked:?}, unlinked of {of:?}"),
        }
        let sql = "select count(*) from tenantry.billing_customers where customer_id = $1";
        assert_eq!(stage.count(sql, &customer).await, 0, "round {round}");
        assert!(matches!(link(house, tenant, &customer).await, Err(Error::CustomerDeleted)));
    }
}
