//! What producers in other languages meet: the function and the walls.

use serde_json::{Value, json};
use tenantry_jobs::{InvalidateUser, Job, Kind, Stale, VerifyEmail, schema};
use tokio_postgres::{Error, error::SqlState};
use uuid::Uuid;

use crate::database::{Database, enter};

async fn enqueue(database: &Database, kind: &str, payload: &Value, tenant: Uuid) -> Result<Uuid, Error> {
    let mut client = database.client().await;
    let tx = client.transaction().await?;
    enter(&tx, database.tenant).await;
    let sql = "select tenantry.enqueue_job(kind => $1, payload => $2, tenant_id => $3)";
    let id = tx.query_one(sql, &[&kind, &payload, &tenant]).await?.get(0);
    tx.commit().await?;
    Ok(id)
}

fn code(refused: &Error) -> SqlState {
    refused.code().unwrap().clone()
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_a_reason_and_a_hint() {
    let database = Database::new().await;
    let id = Uuid::now_v7();
    for (kind, payload, reason) in [
        ("verify_mail", json!({ "user_id": id }), "unknown kind of job: verify_mail"),
        ("verify_email", json!([id]), "payload of a verify_email job: payload must be of type object"),
        ("verify_email", json!(null), "payload of a verify_email job: payload must be of type object"),
        ("verify_email", json!({}), "payload of a verify_email job: payload.user_id is required"),
        (
            "verify_email",
            json!({ "user_id": null }),
            "payload of a verify_email job: payload.user_id must be of type uuid",
        ),
        (
            "verify_email",
            json!({ "user_id": 7 }),
            "payload of a verify_email job: payload.user_id must be of type uuid",
        ),
        (
            "verify_email",
            json!({ "user_id": "7" }),
            "payload of a verify_email job: payload.user_id must be of type uuid",
        ),
        (
            "invalidate_user",
            json!({ "users": {} }),
            "payload of a invalidate_user job: payload.users must be of type array",
        ),
        (
            "invalidate_user",
            json!({ "users": [{ "id": id, "version": 1 }, { "id": id }] }),
            "payload of a invalidate_user job: payload.users[1].version is required",
        ),
        (
            "invalidate_user",
            json!({ "users": [{ "id": id, "version": 1.5 }] }),
            "payload of a invalidate_user job: payload.users[0].version must be of type integer",
        ),
        (
            "invalidate_user",
            json!({ "users": [{ "id": id, "version": 9_223_372_036_854_775_808_u64 }] }),
            "payload of a invalidate_user job: payload.users[0].version must be of type integer",
        ),
    ] {
        let refused = enqueue(&database, kind, &payload, database.tenant).await.unwrap_err();

        let error = refused.as_db_error().unwrap();
        assert_eq!(error.message(), reason);
        assert_eq!(*error.code(), SqlState::INVALID_PARAMETER_VALUE, "{reason}");
        assert!(error.hint().is_some(), "{reason}");
    }
    assert!(database.states().await.is_empty());
}

#[tokio::test]
async fn null_arguments_are_refused_or_mean_the_default() {
    let database = Database::new().await;
    let call = |arguments: &str| {
        format!("begin; set local role tenantry_system; select tenantry.enqueue_job({arguments}); commit")
    };
    let client = database.client().await;
    for arguments in [
        "kind => null, payload => '{}', tenant_id => uuid_nil",
        "kind => 'verify_email', payload => null, tenant_id => uuid_nil",
        "kind => 'verify_email', payload => '{}', tenant_id => null",
    ] {
        let arguments = arguments.replace("uuid_nil", "'00000000-0000-0000-0000-000000000000'");
        client.batch_execute(&call(&arguments)).await.unwrap_err();
        client.batch_execute("rollback").await.unwrap();
    }

    let payload = json!({ "user_id": Uuid::now_v7() });
    let all_null = format!(
        "kind => 'verify_email', payload => '{payload}', tenant_id => '{}', run_at => null, priority => null, unique_key => null",
        database.tenant
    );
    client.batch_execute(&call(&all_null)).await.unwrap();
    assert_eq!(database.states().await, ["pending"]);
}

#[tokio::test]
async fn another_tenants_jobs_are_out_of_reach() {
    let database = Database::new().await;
    let theirs = database.add_tenant().await;
    let payload = json!({ "user_id": Uuid::now_v7() });

    let refused = enqueue(&database, "verify_email", &payload, theirs).await.unwrap_err();
    assert_eq!(code(&refused), SqlState::INSUFFICIENT_PRIVILEGE);

    let ours = enqueue(&database, "verify_email", &payload, database.tenant).await.unwrap();
    let mut client = database.client().await;
    for (tenant, seen) in [(database.tenant, 1), (theirs, 0)] {
        let tx = client.transaction().await.unwrap();
        enter(&tx, tenant).await;
        assert_eq!(tx.query("select id from tenantry.jobs", &[]).await.unwrap().len(), seen);
        let lease = Uuid::new_v4();
        let refused =
            tx.query("select tenantry.complete_job($1, $2, $3)", &[&database.tenant, &ours, &lease]).await;
        assert!(refused.is_err());
    }
}

#[tokio::test]
async fn behind_the_wall_no_tenant_no_role_and_no_other_way_in() {
    let database = Database::new().await;
    let payload = json!({ "user_id": Uuid::now_v7() });
    let call = format!("select tenantry.enqueue_job('verify_email', '{payload}', '{}')", database.tenant);
    let client = database.client().await;
    for refused in [
        // The login has not taken a role.
        call.clone(),
        // The role without a tenant.
        format!("begin; set local role tenantry_app; {call}"),
        // Past the function.
        "begin; set local role tenantry_app; update tenantry.jobs set state = 'done'".to_owned(),
        "begin; set local role tenantry_app; insert into tenantry.jobs (tenant_id) values (null)".to_owned(),
        "begin; set local role tenantry_app; insert into tenantry.job_kinds values ('x', '{}', 1)".to_owned(),
    ] {
        let error = client.batch_execute(&refused).await.unwrap_err();
        assert_eq!(code(&error), SqlState::INSUFFICIENT_PRIVILEGE, "{refused}");
        client.batch_execute("rollback").await.unwrap();
    }
    assert_eq!(
        client.query("select * from tenantry.jobs", &[]).await.unwrap_err().code(),
        Some(&SqlState::INSUFFICIENT_PRIVILEGE)
    );
    client.batch_execute(&format!("begin; set local role tenantry_system; {call}; commit")).await.unwrap();
    assert_eq!(database.states().await, ["pending"]);
}

#[tokio::test]
async fn the_database_knows_the_kinds_as_the_workers_do() {
    let database = Database::new().await;
    let rows = database
        .admin
        .query("select kind, required, max_attempts from tenantry.job_kinds", &[])
        .await
        .unwrap();

    assert_eq!(rows.len(), Kind::ALL.len());
    for row in rows {
        let kind: Kind = row.get::<_, &str>("kind").parse().unwrap();
        assert_eq!(row.get::<_, Value>("required"), shape(&schema::payload(kind)), "required keys of {kind}");
        assert_eq!(row.get::<_, i32>("max_attempts").unsigned_abs(), kind.policy().max_attempts, "{kind}");
    }
}

/// What `job_kinds.required` says of a payload with this schema.
fn shape(schema: &Value) -> Value {
    // One of several names: all are of one type.
    if let Some(name) = schema["oneOf"].get(0) {
        return shape(name);
    }
    match (schema["type"].as_str().unwrap(), schema["format"].as_str()) {
        ("object", _) => {
            let keys = schema["required"].as_array().into_iter().flatten();
            keys.map(|key| {
                (key.as_str().unwrap().to_owned(), shape(&schema["properties"][key.as_str().unwrap()]))
            })
            .collect()
        }
        ("array", _) => json!([shape(&schema["items"])]),
        ("string", Some("uuid")) => json!("uuid"),
        (name, _) => json!(name),
    }
}

#[tokio::test]
async fn what_the_types_make_is_accepted() {
    let database = Database::new().await;
    let verify = VerifyEmail { user_id: Uuid::now_v7() };
    let stale = |version| Stale { id: Uuid::now_v7(), version };
    let invalidate = InvalidateUser { users: vec![stale(i64::MIN), stale(0), stale(i64::MAX)] };
    for (kind, payload) in [
        (VerifyEmail::KIND, serde_json::to_value(verify).unwrap()),
        (InvalidateUser::KIND, serde_json::to_value(invalidate).unwrap()),
        (InvalidateUser::KIND, serde_json::to_value(InvalidateUser { users: vec![] }).unwrap()),
        (VerifyEmail::KIND, json!({ "user_id": Uuid::now_v7(), "a_later_version": "adds this" })),
    ] {
        enqueue(&database, kind.as_str(), &payload, database.tenant).await.unwrap();
    }
}

#[tokio::test]
async fn ids_are_in_the_order_of_their_time() {
    let database = Database::new().await;
    let sql = "select tenantry.uuid_v7() as id, pg_sleep(0.002) from generate_series(1, 20)";
    let ids: Vec<Uuid> =
        database.admin.query(sql, &[]).await.unwrap().iter().map(|row| row.get("id")).collect();

    assert!(ids.is_sorted());
    assert!(ids.iter().all(|id| id.get_version_num() == 7 && id.get_variant() == uuid::Variant::RFC4122));
    let now = chrono::Utc::now().timestamp();
    assert!(ids.iter().all(|id| id.get_timestamp().unwrap().to_unix().0.abs_diff(now.unsigned_abs()) < 60));
}

#[tokio::test]
async fn a_producer_gives_its_jobs_a_trace_by_a_setting_of_its_transaction() {
    let database = Database::new().await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let (zero, huge) = (trace.replace("b7ad6b7169203331", "0000000000000000"), trace.repeat(100_000));
    let mut client = database.client().await;
    for (setting, noted) in [
        (Some(trace), Some(trace)),
        (None, None),
        (Some("nonsense"), None),
        (Some(&zero), None),
        (Some(&huge), None),
    ] {
        let tx = client.transaction().await.unwrap();
        enter(&tx, database.tenant).await;
        if let Some(setting) = setting {
            tx.execute("select set_config('tenantry.traceparent', $1, true)", &[&setting]).await.unwrap();
        }
        let payload = json!({ "user_id": Uuid::now_v7() });
        let one = "select tenantry.enqueue_job('verify_email', $1, $2)";
        let one: Uuid = tx.query_one(one, &[&payload, &database.tenant]).await.unwrap().get(0);
        let many = "select tenantry.enqueue_jobs('verify_email', array[$1::jsonb], $2)";
        let many: Uuid = tx.query_one(many, &[&payload, &database.tenant]).await.unwrap().get(0);
        tx.commit().await.unwrap();
        for id in [one, many] {
            let row = database.row(tenantry_queue::JobId(id)).await;
            assert_eq!(row.get::<_, Option<&str>>("traceparent"), noted, "{setting:.80?}");
        }
    }
    let ran = std::sync::Arc::new(std::sync::Mutex::new(vec![]));
    let seen = ran.clone();
    let handler = move |job: tenantry_queue::Leased| -> futures_util::future::BoxFuture<'static, _> {
        let inside = tenantry_trace::current().unwrap().trace_id();
        assert!(job.trace.is_none_or(|trace| trace.trace_id() == inside));
        seen.lock().unwrap().push(job.trace.map(|trace| trace.to_string()));
        Box::pin(async { tenantry_queue::Outcome::Done })
    };
    tenantry_queue::run_due(&database.pool, Some(database.tenant), handler).await.unwrap();
    let mut ran = ran.lock().unwrap().clone();
    ran.sort();
    let expected =
        [None, None, None, None, None, None, None, None, Some(trace.to_owned()), Some(trace.to_owned())];
    assert_eq!(ran, expected);
}
