//! Lists and searches where there are many: what they cost does not depend on how many there are.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio_postgres::{AsyncMessage, Client, NoTls};

use super::next_cursor;
use crate::{
    app::{eventually, from_stack},
    node::{Cluster, Connection, in_database},
};

const USERS: usize = 20_000;

/// One large tenant among two thousand small ones, so that the planner's guess of how many users a tenant has is twelve.
async fn gather() -> Cluster {
    let cluster = Cluster::start(1, USERS, &[]).await;
    let small = "insert into tenantry.tenants (id, name, slug)
                   select tenantry.uuid_v7(), 'Small', 'small-' || n from generate_series(1, 2000) n;
                 insert into tenantry.users (tenant_id, id, email, name)
                   select id, tenantry.uuid_v7(), n || '@example.org', 'User ' || n
                   from tenantry.tenants, generate_series(1, 2) n where slug like 'small-%'";
    cluster.database.batch_execute(small).await.unwrap();
    cluster
}

#[tokio::test]
async fn among_twenty_thousand_lists_are_read_off_indexes_and_totals_are_estimated() {
    let cluster = gather().await;
    // Rows that may not be visible to all are looked at themselves; some transaction may still be open.
    eventually(Duration::from_secs(1), || async {
        cluster.database.batch_execute("vacuum analyze").await.unwrap();
        let sql = "select relallvisible >= relpages - 2 from pg_class where oid = 'tenantry.users'::regclass";
        cluster.database.query_one(sql, &[]).await.unwrap().get(0)
    })
    .await;
    let mut client = cluster.client(0).await;

    for (query, total, is_estimate) in [
        ("limit=10", USERS + 1, true),
        ("sort_by=name&page=1000", USERS + 1, true),
        ("created_after=2020-01-01T00:00:00Z&sort_by=email&sort_order=asc&page=1000", USERS + 1, true),
        ("role=admin", 1, false),
        ("is_active=false", 0, false),
        ("created_before=2020-01-01T00:00:00Z", 0, false),
        ("created_before=2020-01-01T00:00:00Z&sort_by=name", 0, false),
        ("email_verified=false&created_before=2020-01-01T00:00:00Z&sort_by=name", 0, false),
        ("search=user12345%40", 1, false),
        ("search=example", 1_000, true),
        ("search=us", 1_000, true),
        ("search=...", 0, false),
        ("search=user&role=admin", 0, false),
    ] {
        let (body, blocks) = measured(&cluster, &mut client, query).await;
        let told = &body["pagination"];
        let (count, wanted) = (told["total"].as_f64().unwrap(), total as f64);
        assert!(
            (count - wanted).abs() <= if total > 10_000 { wanted / 20.0 } else { 0.0 },
            "{query}: {told}"
        );
        assert_eq!(told["total_is_estimate"], is_estimate, "{query}");
        println!("{query}: {blocks} blocks");
        // The table has some 400, and its indexes thousands. A thousand users take three each, and of signs alone nobody is
        // found but by looking.
        assert!(blocks < 800 || total == 1_000 || query.contains("..."), "{query}: {blocks} blocks");
    }

    for list in ["sort_by=last_login_at", "sort_by=name&created_after=2020-01-01T00:00:00Z"] {
        let (mut cursor, mut seen, mut parts, before) =
            ("first".to_owned(), vec![], 0, cluster.blocks().await);
        loop {
            let answer = client.get(&format!("/api/v1/users?{list}&limit=100&cursor={cursor}")).await.json();
            seen.extend(answer["data"].as_array().unwrap().iter().map(place));
            parts += 1;
            match next_cursor(&answer) {
                Some(next) => cursor = next,
                None => break,
            }
        }
        let each = (cluster.blocks().await - before) / parts;
        println!("{list}: {parts} parts of {each} blocks");
        assert_eq!(seen.len(), USERS + 1, "{list}");
        match list.contains("name") {
            true => assert!(seen.is_sorted_by(|one, next| one > next), "{list}"),
            // Nobody has, but for the administrator.
            false => assert!(seen[1..].is_sorted_by(|one, next| one.1 > next.1), "{list}"),
        }
        assert!(each < 800, "{list}: {each} blocks");
    }
}

/// What a user is sorted by.
fn place(user: &serde_json::Value) -> (String, String) {
    let text = |field: &str| user[field].as_str().unwrap().to_owned();
    (text("name"), text("id"))
}

/// The answer, and how many blocks of tables and indexes were looked into for it.
async fn measured(cluster: &Cluster, client: &mut Connection, query: &str) -> (serde_json::Value, i64) {
    let before = cluster.blocks().await;
    let answer = client.get(&format!("/api/v1/users?{query}")).await;
    assert_eq!(answer.status, 200, "{query}: {}", answer.json());
    (answer.json(), cluster.blocks().await - before)
}

/// What is rare is found by the index, also before anybody has told the planner how many users there are.
#[tokio::test]
async fn among_twenty_thousand_a_search_is_answered_by_the_index() {
    let cluster = gather().await;
    for analyze in [false, true] {
        if analyze {
            cluster.database.batch_execute("analyze tenantry.users, tenantry.user_search").await.unwrap();
        }
        for needle in ["user12345@", "zz", "er1999"] {
            let plans = plans(&cluster, needle).await;
            assert!(plans.contains("Bitmap Index Scan on user_search_words"), "{needle}: {plans}");
            assert!(!plans.contains("Seq Scan on user"), "{needle}: {plans}");
        }
    }
    // Others are found by looking, and no further than needed.
    let common = plans(&cluster, "example").await;
    assert!(common.contains("Index Scan Backward using users_by_created_at"), "{common}");
    assert!(!common.contains("user_search_words") && !common.contains("Seq Scan on user"), "{common}");
}

/// The plans of all statements in the function, with what became of them.
async fn plans(cluster: &Cluster, needle: &str) -> String {
    let name: String =
        cluster.database.query_one("select current_database()::text", &[]).await.unwrap().get(0);
    let url = in_database(&from_stack("TEST_DATABASE_SUPERUSER_URL"), &name);
    let (client, mut connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    let said = Arc::new(Mutex::new(String::new()));
    let log = said.clone();
    tokio::spawn(async move {
        let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notice(notice) = message {
                log.lock().unwrap().push_str(notice.message());
            }
        }
    });
    ask(&client, cluster, needle).await;
    drop(client);
    said.lock().unwrap().clone()
}

async fn ask(client: &Client, cluster: &Cluster, needle: &str) {
    let (tenant, settings) = (
        cluster.tenant,
        "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;
         set auto_explain.log_analyze = on; set client_min_messages = log",
    );
    client.batch_execute(settings).await.unwrap();
    let as_tenant = format!(
        "begin; select set_config('role', 'tenantry_app', true), set_config('tenantry.tenant', '{tenant}', true);
         select count(*) from tenantry.search_users('{tenant}', '{needle}', '{{t}}', '{{user,admin}}', '{{t,f}}', '-infinity',
           'infinity', 1000); rollback"
    );
    client.batch_execute(&as_tenant).await.unwrap();
}
