//! Every operation, called by each role with what is another tenant's: it does not exist, and stays as it is.

use reqwest::StatusCode;
use serde_json::json;
use tenantry_fake_stripe::Fake;
use tokio_postgres::Client;

use super::{
    cases::{Case, cases},
    operations::Operation,
    things::Thing,
    world::{self, Caller, Dump, Dumps, Tenant, changed, send},
};
use crate::{
    app::{TestApp, answer},
    node,
};

/// Both tenants on the same node, so that they share its memory as well.
struct World {
    app: TestApp,
    database: Client,
    dumps: Dumps,
    ours: Tenant,
    theirs: Tenant,
    _stripe: Fake,
}

#[tokio::test]
async fn what_is_another_tenants_does_not_exist_for_any_operation_and_role() {
    let world = World::begin().await;
    let them = world.theirs.admin(&world.app).await;
    let mut callers = world.callers().await;
    for (operation, case) in cases() {
        let mut theirs = vec![];
        for _ in &callers {
            theirs.push(case.names.make(&world.app, &world.database, &world.theirs, &them).await);
        }
        let before = world.dump_theirs().await;
        for (caller, theirs) in callers.iter_mut().zip(theirs) {
            if !case.reaches_all || caller.role != "super_admin" {
                world.call(&operation, &case, caller, &theirs).await;
            }
        }
        assert_eq!(changed(&before, &world.dump_theirs().await), [""; 0], "{}", operation.id);
    }
}

/// Shows that nothing else is wrong with the requests of the test before.
#[tokio::test]
async fn every_operation_succeeds_with_what_is_ones_own() {
    let mut world = World::begin().await;
    let mut us = world.callers().await;
    for (operation, case) in cases() {
        let admin = us.iter().find(|caller| caller.role == "admin").unwrap();
        let named = match case.makes_what_it_names {
            true => case.names.unknown(&world.ours),
            false => case.names.make(&world.app, &world.database, &world.ours, admin).await,
        };
        let caller = if operation.admits("admin") { admin } else { operation.caller(&us) };
        let request = caller.request(&world.app, &operation, &case, &named);
        let (status, body) = answer(request).await;
        assert!(status.is_success(), "{}: {body}", operation.id);
        if case.ends_the_tenant {
            world = World::begin().await;
        }
        if case.signs_out || case.ends_the_tenant {
            us = world.callers().await;
        }
    }
}

#[tokio::test]
async fn a_super_administrator_reaches_another_tenant_by_saying_which() {
    let mut world = World::begin().await;
    let (mut root, mut them) = (Caller::super_admin(&world.app).await, world.theirs.admin(&world.app).await);
    // Sessions are one's own, whatever tenant one acts in.
    for (operation, case) in
        cases().into_iter().filter(|(operation, case)| operation.has_an_id() && case.names != Thing::Session)
    {
        let named = case.names.make(&world.app, &world.database, &world.theirs, &them).await;
        let request = root.request(&world.app, &operation, &case, &named);
        // What reaches all tenants does so by the id alone.
        let request = match case.reaches_all {
            true => request,
            false => request.header("X-Tenant-ID", &world.theirs.slug),
        };
        let answer = send(request, &named).await;
        assert!(answer.status.is_success(), "{}: {}", operation.id, answer.body);
        if case.ends_the_tenant {
            world = World::begin().await;
            (root, them) = (Caller::super_admin(&world.app).await, world.theirs.admin(&world.app).await);
        }
    }
}

#[tokio::test]
async fn nobody_but_a_super_administrator_leads_a_request_into_another_tenant() {
    let world = World::begin().await;
    let callers = world.callers().await;
    let before = world.dump_theirs().await;
    let mut spanning = 0;
    for (operation, case) in cases() {
        if operation.is_public() {
            continue;
        }
        let named = case.names.unknown(&world.ours);
        for caller in callers.iter().filter(|caller| caller.role != "super_admin") {
            let request = || caller.request(&world.app, &operation, &case, &named);
            let mut leading = vec![
                request().header("X-Tenant-ID", &world.theirs.slug),
                request().header("X-Tenant-ID", world.theirs.id.to_string()),
                // The one that is right in front of the other.
                request().header("X-Tenant-ID", &world.ours.slug).header("X-Tenant-ID", &world.theirs.slug),
            ];
            if operation.spans_tenants {
                spanning += 1;
                leading.push(request().query(&[("all_tenants", "true")]));
            }
            for request in leading {
                let answer = send(request, &named).await;
                let refused = (StatusCode::FORBIDDEN, &json!("forbidden"));
                let told = (answer.status, &answer.body["error"]["code"]);
                assert_eq!(told, refused, "{} by {}", operation.id, caller.role);
            }
        }
    }
    assert!(spanning >= 10, "operations that span tenants were found");
    assert_eq!(changed(&before, &world.dump_theirs().await), [""; 0]);
}

#[tokio::test]
async fn a_job_that_names_another_tenants_rows_finds_nobody() {
    let mut world = World::begin().await;
    let (us, them) = (world.ours.admin(&world.app).await, world.theirs.admin(&world.app).await);
    let make = async |thing: Thing| thing.make(&world.app, &world.database, &world.theirs, &them).await;
    let (user, invitation) = (make(Thing::User).await, make(Thing::Invitation).await);
    let before = world.dump_theirs().await;
    for job in [
        json!({"kind": "verify_email", "payload": {"user_id": user}}),
        json!({"kind": "invitation_email", "payload": {"invitation_id": invitation}}),
    ] {
        us.post(&world.app, "/api/v1/jobs", &job).await;
    }
    world.app.tenant = world.ours.id;
    assert!(world.app.run_jobs().await >= 2);
    let mailed = world.app.mails();
    assert!(!mailed.is_empty(), "our own mails");
    assert!(mailed.iter().all(|mail| !mail.contains(&world.theirs.slug)));
    assert_eq!(changed(&before, &world.dump_theirs().await), [""; 0]);
}

impl World {
    async fn begin() -> Self {
        let (app, stripe) = world::node(&[]).await;
        let (ours, theirs) = (Tenant::sign_up(&app).await, Tenant::sign_up(&app).await);
        let database = node::connect("tenantry").await;
        let dumps = Dumps::of(node::connect("tenantry").await).await;
        Self { app, database, dumps, ours, theirs, _stripe: stripe }
    }

    /// One of each kind that can be signed in. Whoever adds a kind of credential adds it here.
    async fn callers(&self) -> Vec<Caller> {
        let app = &self.app;
        vec![
            self.ours.user(app).await,
            self.ours.admin(app).await,
            Caller::super_admin(app).await,
            Caller::api_key(app, &self.ours).await,
        ]
    }

    async fn dump_theirs(&self) -> Dump {
        self.dumps.take(Some(self.theirs.id)).await
    }

    /// Calls with what is theirs, and with what is nobody's: nothing tells one from the other.
    async fn call(&self, operation: &Operation, case: &Case, caller: &mut Caller, theirs: &str) {
        let who = format!("{} by {}", operation.id, caller.role);
        let mut answers = vec![];
        let mut names = vec![case.names.claimed(&self.ours, theirs)];
        if case.names != Thing::Nothing {
            names.push(case.names.unknown(&self.ours));
        }
        for named in names {
            answers.push(send(caller.request(&self.app, operation, case, &named), &named).await);
            if case.signs_out {
                caller.sign_in_again(&self.app).await;
            }
        }
        let foreign = &answers[0];
        assert_eq!(foreign.status.as_u16(), case.status(operation, caller.role), "{who}: {}", foreign.body);
        assert!(answers.iter().all(|unknown| unknown == foreign), "{who}: {answers:?}");
        assert!(!self.theirs.is_told_by(foreign), "{who}: {}", foreign.body);
    }
}
