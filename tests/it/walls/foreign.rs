//! Every operation, called by each role with what is another tenant's: it does not exist, and stays as it is.

use reqwest::StatusCode;
use serde_json::json;
use tokio_postgres::Client;

use super::{
    cases::{Case, cases},
    operations::Operation,
    things::Thing,
    world::{Caller, Tenant, changed, dump, send},
};
use crate::{
    app::{TestApp, answer},
    node,
};

/// Both tenants on the same node, so that they share its memory as well.
struct World {
    app: TestApp,
    database: Client,
    ours: Tenant,
    theirs: Tenant,
}

#[tokio::test]
async fn what_is_another_tenants_does_not_exist_for_any_operation_and_role() {
    let world = World::begin().await;
    let mut callers = world.callers().await;
    for (operation, case) in cases() {
        // Theirs is made in a session of its own, which the operation may be about.
        let them = world.theirs.admin(&world.app).await;
        for caller in &mut callers {
            let theirs = case.names.make(&world.app, &world.database, &world.theirs, &them).await;
            world.call(&operation, &case, caller, &theirs).await;
        }
        world.succeeds_for_ones_own(&operation, &case).await;
        if case.signs_out {
            callers = world.callers().await;
        }
    }
}

#[tokio::test]
async fn nobody_but_a_super_administrator_leads_a_request_into_another_tenant() {
    let world = World::begin().await;
    let callers = world.callers().await;
    let before = dump(&world.database, Some(world.theirs.id)).await;
    let mut spanning = 0;
    for (operation, case) in cases() {
        if operation.is_public() {
            continue;
        }
        let named = case.names.unknown(&world.ours);
        for caller in callers.iter().filter(|caller| caller.role != "super_admin") {
            for tenant in [world.theirs.slug.clone(), world.theirs.id.to_string()] {
                let request = caller.request(&world.app, &operation, &case, &named);
                let answer = send(request.header("X-Tenant-ID", tenant), &named).await;
                let who = format!("{} by {}", operation.id, caller.role);
                assert_eq!(
                    (answer.status, &answer.body["error"]["code"]),
                    (StatusCode::FORBIDDEN, &json!("forbidden")),
                    "{who}"
                );
            }
            if operation.spans_tenants {
                spanning += 1;
                let request = caller.request(&world.app, &operation, &case, &named);
                let answer = send(request.query(&[("all_tenants", "true")]), &named).await;
                assert_eq!(answer.status, StatusCode::FORBIDDEN, "{} of all tenants", operation.id);
            }
        }
    }
    assert!(spanning >= 10, "operations that span tenants were found");
    assert_eq!(changed(&before, &dump(&world.database, Some(world.theirs.id)).await), [""; 0]);
}

impl World {
    async fn begin() -> Self {
        let app = TestApp::spawn_with(&["--plan-seats=pro=100", "--rate-limit-ip=off"]).await;
        let (ours, theirs) = (Tenant::sign_up(&app).await, Tenant::sign_up(&app).await);
        let database = node::connect("tenantry").await;
        Self { app, database, ours, theirs }
    }

    /// One of each kind that can be signed in. Whoever adds a kind of credential adds it here.
    async fn callers(&self) -> Vec<Caller> {
        let app = &self.app;
        vec![self.ours.user(app).await, self.ours.admin(app).await, Caller::super_admin(app).await]
    }

    /// Calls with what is theirs, and with what is nobody's: nothing tells one from the other.
    async fn call(&self, operation: &Operation, case: &Case, caller: &mut Caller, theirs: &str) {
        let who = format!("{} by {}", operation.id, caller.role);
        let before = dump(&self.database, Some(self.theirs.id)).await;
        let mut answers = vec![];
        let claimed = case.names.claimed(&self.ours, theirs);
        for named in [claimed, case.names.unknown(&self.ours)] {
            answers.push(send(caller.request(&self.app, operation, case, &named), &named).await);
            if case.signs_out {
                caller.sign_in_again(&self.app).await;
            }
        }
        let [foreign, unknown] = &answers[..] else { panic!("two answers") };
        if case.reaches_all && caller.role == "super_admin" {
            assert_eq!((foreign.status, unknown.status), (StatusCode::OK, StatusCode::NOT_FOUND), "{who}");
            return;
        }
        assert_eq!(foreign.status.as_u16(), case.status(operation, caller.role), "{who}: {}", foreign.body);
        if case.names != Thing::Nothing {
            assert_eq!(foreign, unknown, "{who}");
        }
        assert!(!self.theirs.is_told_by(foreign), "{who}: {}", foreign.body);
        let changed = changed(&before, &dump(&self.database, Some(self.theirs.id)).await);
        assert_eq!(changed, [""; 0], "{who}");
    }

    /// The same request with what is one's own, which shows that nothing else is wrong with it.
    async fn succeeds_for_ones_own(&self, operation: &Operation, case: &Case) {
        let caller = self.ours.admin(&self.app).await;
        let named = match case.makes_what_it_names {
            true => case.names.unknown(&self.ours),
            false => case.names.make(&self.app, &self.database, &self.ours, &caller).await,
        };
        let (status, body) = answer(caller.request(&self.app, operation, case, &named)).await;
        assert!(status.is_success(), "{} for one's own: {body}", operation.id);
    }
}
