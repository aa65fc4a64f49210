//! The functions of the database that a tenant's transaction may call: those that take a tenant are held back by the wall,
//! whatever they are told. A new one needs a line here.

use std::collections::BTreeSet;

use tokio_postgres::SimpleQueryMessage;
use uuid::Uuid;

use super::{policies::World, things::Thing};

/// Called with what is another tenant's, as a mistaken filter would, they do and tell nothing.
const WALLED: &[(&str, &str)] = &[
    ("user_by_id", "'<tenant>', '<user>'"),
    ("users_by_id", "'<tenant>', array['<user>']::uuid[]"),
    ("user_by_email", "'<tenant>', '<email>'"),
    ("search_users", "'<tenant>', '<email>', '{t}', '{user,admin}', '{t,f}', '-infinity', 'infinity', 10"),
    ("login_by_email", "'<tenant>', '<email>'"),
    ("api_key_by_id", "'<tenant>', '<key>', '<hash>'"),
    ("token_stands", "'<tenant>', '<user>', '<session>', 1, 1"),
    ("tenant_id_of", "'<tenant>'"),
    ("assert_tenant", "'<tenant>'"),
    ("enqueue_job", "'verify_email', '{\"user_id\": \"<user>\"}', '<tenant>'"),
    ("enqueue_jobs", "'verify_email', array['{\"user_id\": \"<user>\"}']::jsonb[], '<tenant>'"),
    ("seats_counted", "'<tenant>'"),
    ("idempotent_answer", "'<tenant>', sha256('<tenant>'), interval '1 day'"),
    ("leased_job_state", "'<tenant>', '<running>', '<lease>'"),
    ("complete_job", "'<tenant>', '<running>', '<lease>'"),
    ("requeue_job", "'<tenant>', '<dead>'"),
    ("cancel_job", "'<tenant>', '<running>', 'no longer wanted'"),
    ("redrive_jobs", "'verify_email', '<tenant>', 10"),
    ("purge_jobs", "array['dead'], interval '0 s', '<tenant>', 10"),
];

/// The others, and why no wall has to hold them.
const TRUSTED: &[(&str, &[&str])] = &[
    ("it is what says whose transaction it is", &["current_tenant"]),
    (
        "they see no rows of a tenant",
        &["uuid_v7", "known_kind", "assert_shape", "attempt_noted", "note_token_lifetime", "traceparent"],
    ),
    ("only migrations may call it", &["wall"]),
    (
        "they see no rows of a tenant, whatever they are told",
        &[
            "uuid_floor",
            "event_id",
            "seat_taken",
            "search_words",
            "without_texts",
            "merge_patch",
            "top_level_keys",
            "metadata_entries",
        ],
    ),
    (
        "they are triggers, and see the rows that have just been written",
        &["search_words_added", "search_words_changed", "metadata_changed"],
    ),
    ("upkeep of the audit trail, months at a time", &["make_audit_partition", "rotate_audit"]),
    (
        "it is the workers', and refuses tenants that are not closed, and those whose time has not come",
        &["purge_tenant"],
    ),
    ("it is the workers', and refuses those who are not being erased", &["erase_from_audit"]),
    (
        "they see past the wall, since super administrators are of another tenant, and say yes or no",
        &["actor_stands", "session_stands", "api_key_stands"],
    ),
    ("it notes when keys were used, of all tenants at once, and answers nothing", &["note_api_keys_used"]),
    (
        "whoever signs in names a tenant before anybody is known: it tells an id, and what comes after it sees that tenant alone",
        &["tenant_named"],
    ),
    ("it answers nothing, and mails those alone who have the address", &["request_mail"]),
    (
        "they are the workers', who serve all tenants, and act as the system; what they are told of a job names its lease",
        &[
            "fetch_jobs",
            "lease_jobs",
            "promote_jobs",
            "begin_alone",
            "heartbeat_jobs",
            "finish_job",
            "finish_jobs",
            "retry_job",
            "defer_job",
            "release_job",
            "discard_jobs",
            "oldest_waiting_jobs",
            "prune_jobs",
            "enqueue_scheduled",
            "purge_deleted_users",
            "purge_api_keys",
            "purge_imports",
            "prune_idempotency_keys",
            "prune_user_logins",
        ],
    ),
    (
        "every process follows the feed of all tenants",
        &["follow_revocations", "revocations_since", "prune_revocations"],
    ),
    (
        "they are for Stripe, who names no tenant, and act as the system; whose an object is they read from our own rows",
        &["receive_stripe_event", "begin_stripe_fetch"],
    ),
];

#[tokio::test]
async fn every_function_is_held_back_by_the_wall_or_trusted_for_a_reason() {
    let world = World::begin().await;
    // Those of extensions are PostgreSQL's own, and know no tables.
    let sql = "select distinct proname::text from pg_proc p where pronamespace = 'tenantry'::regnamespace
               and not exists (select from pg_depend d
                 where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')";
    let rows = world.database.query(sql, &[]).await.unwrap();
    let there: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let trusted = TRUSTED.iter().flat_map(|(_, names)| names.iter());
    let known = WALLED.iter().map(|(name, _)| name).chain(trusted).map(|name| (*name).to_owned()).collect();
    assert_eq!(there, known, "each has one line in {}", file!());

    let calls = calls(&world).await;
    world.mistake_the_tenant().await;
    for (name, call) in &calls {
        assert_eq!(outcome(&world, call).await, Outcome::Nothing, "{name}");
    }
    world.mistake_nothing().await;
    for (name, call) in &calls {
        assert_eq!(outcome(&world, call).await, Outcome::Something, "{name} in the tenant's own transaction");
    }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    /// No row, none with a value, no or nought; or it was refused as what is not the caller's is.
    Nothing,
    Something,
    Failed(String),
}

/// What a call in a transaction for their tenant comes to, which is rolled back.
async fn outcome(world: &World, call: &str) -> Outcome {
    let begin = format!(
        "begin; select set_config('role', 'tenantry_app', true), set_config('tenantry.tenant', '{}', true)",
        world.theirs.id
    );
    world.database.batch_execute(&begin).await.unwrap();
    let answer = world.database.simple_query(call).await;
    world.database.batch_execute("rollback").await.unwrap();
    let filled = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => !matches!(row.get(0), None | Some("f") | Some("0")),
        _ => false,
    };
    match answer {
        Ok(messages) if messages.iter().any(filled) => Outcome::Something,
        Ok(_) => Outcome::Nothing,
        Err(error) if error.code().is_some_and(|code| code.code() == "42501") => Outcome::Nothing,
        Err(error) => Outcome::Failed(format!("{call}: {error:?}")),
    }
}

/// The calls with what is theirs.
async fn calls(world: &World) -> Vec<(&'static str, String)> {
    let (dead, running) = (world.make(Thing::DeadJob).await, world.make(Thing::Job).await);
    let (key, session) = (world.make(Thing::ApiKey).await, world.make(Thing::Session).await);
    let hash = "select hash::text from tenantry.api_keys where id = $1";
    let hash: String = world.database.query_one(hash, &[&key.parse::<Uuid>().unwrap()]).await.unwrap().get(0);
    let answered = "insert into tenantry.idempotency_keys (tenant_id, name, key_id, fingerprint, answer)
                    values ($1, sha256($1::uuid::text::bytea), 'none', sha256(''), 'something')";
    assert_eq!(world.database.execute(answered, &[&world.theirs.id]).await.unwrap(), 1);
    let lease = Uuid::new_v4();
    let leased =
        "update tenantry.jobs set state = 'running', lease = $2, lease_expires_at = now() + interval '1 hour'
                  where id = $1";
    let ids: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&running.parse::<Uuid>().unwrap(), &lease];
    assert_eq!(world.database.execute(leased, &ids).await.unwrap(), 1);
    let call = |&(name, arguments): &(&'static str, &str)| {
        let arguments = arguments
            .replace("<tenant>", &world.theirs.id.to_string())
            .replace("<user>", &world.theirs.admin.to_string())
            .replace("<email>", &world.theirs.email("admin"))
            .replace("<dead>", &dead)
            .replace("<running>", &running)
            .replace("<key>", &key)
            .replace("<hash>", &hash)
            .replace("<session>", &session)
            .replace("<lease>", &lease.to_string());
        (name, format!("select tenantry.{name}({arguments})"))
    };
    WALLED.iter().map(call).collect()
}
