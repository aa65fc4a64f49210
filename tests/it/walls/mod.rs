//! What keeps tenants apart: the filters and roles of the application, and, where they fail, row-level security.

mod cases;
mod foreign;
mod functions;
mod operations;
mod policies;
mod roles;
mod things;
mod world;

use crate::app::TestApp;

/// Every table that holds a tenant's rows; partitions are reached through theirs.
pub(crate) const TABLES: &str = "select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
                      where n.nspname = 'tenantry' and c.relkind in ('r', 'p') and not c.relispartition
                        and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id')
                      order by 1";

#[tokio::test]
async fn every_table_with_tenants_in_it_has_a_wall() {
    let app = TestApp::spawn().await;
    let client = app.database().await;
    for row in client.query(TABLES, &[]).await.unwrap() {
        let table: String = row.get(0);
        let wall = client
            .query_one(
                "select relrowsecurity,
                   (select count(*) from pg_policies where schemaname = 'tenantry' and tablename = $1
                    and 'tenantry_app' = any(roles)) as policies
                 from pg_class where oid = ('tenantry.' || $1)::regclass",
                &[&table],
            )
            .await
            .unwrap();
        assert!(wall.get::<_, bool>(0) && wall.get::<_, i64>(1) > 0, "{table} is not walled");
        let key = client
            .query_one(
                "select a.attname::text from pg_index i
                   join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
                 where i.indrelid = ('tenantry.' || $1)::regclass and i.indisprimary",
                &[&table],
            )
            .await
            .unwrap();
        assert_eq!(key.get::<_, String>(0), "tenant_id", "the key of {table} starts with the tenant");
    }
}

#[tokio::test]
async fn no_partition_is_a_way_around_the_wall() {
    let app = TestApp::spawn().await;
    let client = app.database().await;
    let partitions = client
        .query(
            "select c.relname, c.relrowsecurity,
               exists (select from unnest(array['tenantry', 'tenantry_app', 'tenantry_system', 'public']) as role,
                 unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) as privilege
                 where has_table_privilege(role, c.oid, privilege)) as open
             from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where n.nspname = 'tenantry' and c.relkind in ('r', 'p') and c.relispartition",
            &[],
        )
        .await
        .unwrap();
    assert!(partitions.len() >= 4, "the audit trail has some");
    for partition in partitions {
        let name: String = partition.get(0);
        assert!(partition.get::<_, bool>(1) && !partition.get::<_, bool>(2), "{name} is open");
    }
    let mut client = app.database().await;
    let tx = client.transaction().await.unwrap();
    tx.execute("select set_config('role', 'tenantry_system', true)", &[]).await.unwrap();
    let error = tx.query("select * from tenantry.audit_events_default", &[]).await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("permission denied"), "{error:?}");
}

#[tokio::test]
async fn the_login_itself_sees_nothing() {
    let app = TestApp::spawn().await;
    let client = app.database().await;
    let error = client.query("select * from tenantry.users", &[]).await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("permission denied"), "{error:?}");
}

#[tokio::test]
async fn without_any_filter_a_tenant_sees_its_own_rows_only() {
    let (ours, theirs) = (TestApp::spawn().await, TestApp::spawn().await);
    let mut client = ours.database().await;
    let tx = tenantry_accounts::db::as_tenant(&mut client, tenantry_accounts::TenantId(ours.tenant))
        .await
        .unwrap();
    for row in tx.query(TABLES, &[]).await.unwrap() {
        let table: String = row.get(0);
        if !tx
            .query_one("select has_table_privilege('tenantry_app', 'tenantry.' || $1, 'select')", &[&table])
            .await
            .unwrap()
            .get::<_, bool>(0)
        {
            continue;
        }
        let foreign: i64 = tx
            .query_one(
                &format!("select count(*) from tenantry.{table} where tenant_id <> $1"),
                &[&ours.tenant],
            )
            .await
            .unwrap()
            .get(0);
        assert_eq!(foreign, 0, "{table}");
    }
    let changed = tx.execute("update tenantry.users set name = 'Mine'", &[]).await.unwrap();
    assert_eq!(changed, 1, "the administrator of ours");
    let planted = tx
        .execute(
            "insert into tenantry.users (tenant_id, id, email, name) values ($1, gen_random_uuid(), 'x@example.org', 'X')",
            &[&theirs.tenant],
        )
        .await
        .unwrap_err();
    assert!(planted.as_db_error().unwrap().message().contains("row-level security"), "{planted:?}");
}

#[tokio::test]
async fn a_transaction_that_chose_no_tenant_sees_nobody() {
    let app = TestApp::spawn().await;
    let mut client = app.database().await;
    let tx = client.transaction().await.unwrap();
    tx.execute("select set_config('role', 'tenantry_app', true)", &[]).await.unwrap();
    let seen: i64 = tx.query_one("select count(*) from tenantry.users", &[]).await.unwrap().get(0);
    assert_eq!(seen, 0);
    drop(tx);
    // And the role ended with the transaction.
    let role: String = client.query_one("select current_user::text", &[]).await.unwrap().get(0);
    assert_eq!(role, "tenantry");
}
