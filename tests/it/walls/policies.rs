//! The house's own statements with a filter that is wrong: it lets the rows of a tenant through in a transaction that is
//! another's. Row-level security alone has to hold.
//!
//! Everybody here is signed in to the tenant of the rows, as if a mistake had put its id into their requests, so every
//! statement filters by it. That the transaction is another tenant's is the doing of the database, which is the test's
//! own: what sets a transaction's tenant to the one gets the other.

use reqwest::RequestBuilder;
use tenantry_fake_stripe::Fake;
use tokio_postgres::Client;
use uuid::Uuid;

use super::{
    cases::{Case, cases},
    operations::Operation,
    things::Thing,
    world::{self, Caller, Dumps, Tenant, changed, send},
};
use crate::{
    app::{TestApp, from_stack},
    node,
};

/// A database of the test's own, and two tenants in it.
pub(super) struct World {
    /// Has made all there is, and has it in memory.
    app: TestApp,
    pub(super) database: Client,
    dumps: Dumps,
    pub(super) theirs: Tenant,
    /// Whose transactions they become.
    ours: Tenant,
    /// What the database says of the transaction's tenant, as it was.
    current_tenant: String,
    _stripe: Fake,
}

#[tokio::test]
async fn row_level_security_alone_holds_whatever_the_filters_say() {
    let mut world = World::begin().await;
    let mut them = world.callers().await;
    let (cases, mut walled, cold) = (cases(), vec![], world.cold().await);
    for (operation, case) in &cases {
        if case.beyond_the_policies.is_some() {
            continue;
        }
        let named = &world.named(case, &them[0]).await;
        world.mistake_the_tenant().await;
        let before = world.dumps.take(None).await;
        let answer = send(world.request(&cold, operation, case, named, &them), named).await;
        assert_eq!(changed(&before, &world.dumps.take(None).await), [""; 0], "{}", operation.id);
        assert!(!world.theirs.is_told_by(&answer), "{}: {}", operation.id, answer.body);
        // Super administrators leave a trace where they look, and the wall refuses that first.
        let refused: &[u16] = if operation.admits("admin") { &[404] } else { &[404, 500] };
        let status = answer.status.as_u16();
        assert!(!operation.has_an_id() || refused.contains(&status), "{}: {}", operation.id, answer.body);
        world.mistake_nothing().await;
        walled.push((operation, case, answer));
    }
    // Each of them reaches the rows in a transaction of their own.
    let mut cold = world.cold().await;
    for (operation, case, answer) in walled {
        let named = world.named(case, &them[0]).await;
        let before = world.dumps.take(None).await;
        let reached = send(world.request(&cold, operation, case, &named, &them), &named).await;
        let after = world.dumps.take(None).await;
        assert!(reached.status.is_success(), "{}: {}", operation.id, reached.body);
        assert!(reached != answer || !changed(&before, &after).is_empty(), "{} shows nothing", operation.id);
        if case.ends_the_tenant {
            world = World::begin().await;
            cold = world.cold().await;
        }
        if case.signs_out || case.ends_the_tenant {
            them = world.callers().await;
        }
    }
}

/// Shows that it is the policies, and nothing else, that the test before is about.
#[tokio::test]
async fn without_policies_a_mistaken_filter_shows_the_rows_of_others() {
    let world = World::begin().await;
    let them = world.callers().await;
    let tables = "select format('alter table %s disable row level security', oid::regclass) from pg_class
                  where relnamespace = 'tenantry'::regnamespace and relrowsecurity";
    for row in world.database.query(tables, &[]).await.unwrap() {
        world.database.batch_execute(row.get(0)).await.unwrap();
    }
    let cold = world.cold().await;
    for (operation, case) in cases().into_iter().filter(|(operation, _)| operation.method == "GET") {
        world.mistake_nothing().await;
        let named = world.named(&case, &them[0]).await;
        world.mistake_the_tenant().await;
        let request = world.request(&cold, &operation, &case, &named, &them);
        let answer = send(request, &named).await;
        assert!(answer.status.is_success(), "{}: {}", operation.id, answer.body);
    }
}

impl World {
    pub(super) async fn begin() -> Self {
        let name = format!("walls_{}", Uuid::now_v7().simple());
        let copy = format!("create database {name} template tenantry_template");
        node::connect("postgres").await.batch_execute(&copy).await.unwrap();
        let url = format!("--database-url={}", node::in_database(&from_stack("TEST_DATABASE_URL"), &name));
        let (app, stripe) = world::node(&[&url]).await;
        let (ours, theirs) = (Tenant::sign_up(&app).await, Tenant::sign_up(&app).await);
        let database = node::connect(&name).await;
        let sql = "select pg_get_functiondef('tenantry.current_tenant'::regproc)";
        let current_tenant = database.query_one(sql, &[]).await.unwrap().get(0);
        let dumps = Dumps::of(node::connect(&name).await).await;
        Self { app, database, dumps, theirs, ours, current_tenant, _stripe: stripe }
    }

    /// Those who have to do with the tenant of the rows, its administrator first.
    async fn callers(&self) -> Vec<Caller> {
        let app = &self.app;
        let key = Caller::api_key(app, &self.theirs).await;
        vec![self.theirs.admin(app).await, Caller::super_admin(app).await, key]
    }

    /// A request for the tenant of the rows, of the first who may make it.
    fn request(
        &self,
        node: &TestApp,
        operation: &Operation,
        case: &Case,
        named: &str,
        callers: &[Caller],
    ) -> RequestBuilder {
        let request = operation.caller(callers).request(node, operation, case, named);
        request.header("X-Tenant-ID", &self.theirs.slug)
    }

    /// A node that has nothing in memory, and no Redis: whatever it answers is out of the database.
    async fn cold(&self) -> TestApp {
        self.app.node_with(&["--redis-url=redis://127.0.0.1:1/"]).await
    }

    /// From now on a transaction for their tenant is one for ours, and so is a function that sets the tenant itself.
    pub(super) async fn mistake_the_tenant(&self) {
        let (theirs, ours) = (self.theirs.id, self.ours.id);
        let mistaken = format!(
            "create or replace function tenantry.current_tenant() returns uuid language sql stable parallel safe as $$
               select case tenant when '{theirs}'::uuid then '{ours}'::uuid else tenant end
               from (select nullif(current_setting('tenantry.tenant', true), '')::uuid as tenant) set
             $$"
        );
        self.database.batch_execute(&mistaken).await.unwrap();
    }

    /// From now on it is their own again.
    pub(super) async fn mistake_nothing(&self) {
        self.database.batch_execute(&self.current_tenant).await.unwrap();
    }

    /// What the request of a case names: what is theirs, or what is new to them.
    async fn named(&self, case: &Case, them: &Caller) -> String {
        match case.makes_what_it_names {
            true => case.names.unknown(&self.theirs),
            false => case.names.make(&self.app, &self.database, &self.theirs, them).await,
        }
    }

    /// What a request of theirs can be about.
    pub(super) async fn make(&self, thing: Thing) -> String {
        let them = self.theirs.admin(&self.app).await;
        thing.make(&self.app, &self.database, &self.theirs, &them).await
    }
}
