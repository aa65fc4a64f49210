//! Migrations, and the role the application logs in as.

use std::time::Duration;

use refinery::{Migration, Runner};
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls, error::SqlState};

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// All processes of all versions agree on this number; it has no other meaning.
const LOCK: i64 = 0x7465_6e61_6e74_7279;

/// How often a migration is tried that cannot have a table, and the pause between.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_secs(1);

/// Why migrations did not run.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database cannot be reached or refused a statement.
    #[error("the database refused: {}", crate::error::sources(.0))]
    Database(#[from] tokio_postgres::Error),
    /// A migration failed, or one that was applied has been changed since.
    #[error("{}", crate::error::sources(.0))]
    Migration(#[from] refinery::Error),
    /// The application would own what it must be walled from.
    #[error(
        "DATABASE_URL and DATABASE_OWNER_URL name the same role {0:?}: the application must not own its tables, give it a role of its own"
    )]
    SameRole(String),
    /// A table was in use all the time.
    #[error(
        "a migration waits for a table that somebody uses, such as a backup; what was applied stays: try again later"
    )]
    Locked,
    /// A URL has no user.
    #[error("DATABASE_URL names no user")]
    NoUser,
}

/// Applies what is pending, as the owner, and gives the application's role its rights. Returns what was applied.
///
/// Of several at once, one works and the others wait: refinery itself has no lock.
///
/// # Errors
/// When the database refuses; what was applied before stays.
pub async fn run(owner_url: &str, app_url: &str) -> Result<Vec<Migration>, MigrateError> {
    let mut client = connect(owner_url).await?;
    client.execute("select pg_advisory_lock($1)", &[&LOCK]).await?;
    client.batch_execute("create schema if not exists tenantry; set search_path = tenantry").await?;
    let applied = apply(&mut client).await?;
    grant(&client, app_url).await?;
    // The lock goes with the connection, whatever happened above.
    Ok(applied)
}

/// Whoever changes a table waits until nobody uses it, and everybody who comes after waits behind that: for as long as a backup
/// takes, if there is one. So it gives up soon, and tries again.
async fn apply(client: &mut Client) -> Result<Vec<Migration>, MigrateError> {
    client.batch_execute("set lock_timeout = '2s'").await?;
    let mut applied = vec![];
    for _ in 0..TRIES {
        match runner().run_async(client).await {
            Ok(report) => {
                applied.extend(report.applied_migrations().iter().cloned());
                return Ok(applied);
            }
            Err(error) if is_locked(&error) => {
                applied.extend(
                    error.report().into_iter().flat_map(|report| report.applied_migrations().clone()),
                );
                tracing::warn!("a migration waits for a table that somebody uses; it is tried again");
                sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(MigrateError::Locked)
}

fn is_locked(error: &refinery::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<tokio_postgres::Error>() {
            return error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE);
        }
        source = cause.source();
    }
    false
}

/// What `run` would apply. Changes nothing.
///
/// # Errors
/// When the database cannot be asked.
pub async fn pending(url: &str) -> Result<Vec<Migration>, MigrateError> {
    let client = connect(url).await?;
    let history = "select to_regclass('tenantry.refinery_schema_history') is not null";
    let applied: i32 = if client.query_one(history, &[]).await?.try_get(0)? {
        let last = "select coalesce(max(version), 0) from tenantry.refinery_schema_history";
        client.query_one(last, &[]).await?.try_get(0)?
    } else {
        0
    };
    Ok(runner().get_migrations().iter().filter(|migration| migration.version() > applied).cloned().collect())
}

/// The number of the newest migration this program knows.
pub(crate) fn newest() -> i32 {
    runner().get_migrations().iter().map(Migration::version).max().unwrap_or(0)
}

fn runner() -> Runner {
    embedded::migrations::runner()
}

pub(crate) async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("a database connection ended: {error}");
        }
    });
    Ok(client)
}

/// Lets the application's role become tenantry_app and tenantry_system, and inherit from neither: what it may do, it
/// may do inside a transaction that chose a role.
async fn grant(client: &Client, app_url: &str) -> Result<(), MigrateError> {
    let config: tokio_postgres::Config = app_url.parse()?;
    let user = config.get_user().ok_or(MigrateError::NoUser)?;
    let owner: String = client.query_one("select current_user::text", &[]).await?.try_get(0)?;
    if owner == user {
        // A superuser may take any role as it is; only `dev` will start with one.
        let superuser = "select rolsuper from pg_roles where rolname = current_user";
        let superuser: bool = client.query_one(superuser, &[]).await?.try_get(0)?;
        return if superuser { Ok(()) } else { Err(MigrateError::SameRole(owner)) };
    }
    let quoted = format!("\"{}\"", user.replace('"', "\"\""));
    let inherit = if client
        .query_one("select current_setting('server_version_num')::int >= 160000", &[])
        .await?
        .try_get(0)?
    {
        format!("grant tenantry_app, tenantry_system to {quoted} with inherit false, set true")
    } else {
        format!("grant tenantry_app, tenantry_system to {quoted}; alter role {quoted} noinherit")
    };
    // Set per role and database, because a pooler drops what a client asks for when it connects. To compile statements of a
    // millisecond takes twenty.
    client
        .batch_execute(&format!(
            "{inherit};
             grant usage on schema tenantry to {quoted};
             grant select on tenantry.refinery_schema_history to {quoted};
             do $$ begin
               execute format('alter role {quoted} in database %I set statement_timeout = %L', current_database(), '3s');
               execute format('alter role {quoted} in database %I set idle_in_transaction_session_timeout = %L', current_database(), '5s');
               execute format('alter role {quoted} in database %I set jit = off', current_database());
             end $$"
        ))
        .await?;
    Ok(())
}

/// Refuses a role that the walls would not hold.
///
/// # Errors
/// In words for the operator: what is wrong with the role and how to mend it.
pub async fn check_role(client: &Client) -> Result<(), String> {
    let row = client
        .query_one(
            "select current_user::text,
               rolsuper,
               rolbypassrls,
               exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                       where n.nspname = 'tenantry' and pg_has_role(c.relowner, 'usage')) as owner,
               coalesce(pg_has_role('tenantry_system', 'usage') or pg_has_role('tenantry_app', 'usage'), false) as inherits,
               pg_has_role('tenantry_system', 'member') and pg_has_role('tenantry_app', 'member') as member
             from pg_roles where rolname = current_user",
            &[],
        )
        .await
        .map_err(|error| format!("the role of DATABASE_URL could not be checked ({}); run `tenantry migrate` first", crate::error::sources(&error)))?;
    let user: String = row.get(0);
    let is = |column: &str| row.get::<_, bool>(column);
    let wrong = if is("rolsuper") {
        "is a superuser"
    } else if is("rolbypassrls") {
        "bypasses row-level security"
    } else if is("owner") {
        "owns the tables"
    } else if is("inherits") {
        "inherits from tenantry_app or tenantry_system"
    } else if !is("member") {
        "may not become tenantry_app and tenantry_system"
    } else {
        return Ok(());
    };
    Err(format!(
        "DATABASE_URL: role {user:?} {wrong}, so tenants would not be walled off. Give the application a role of its own \
         (create role tenantry login password '...') and run `tenantry migrate` as the owner with DATABASE_OWNER_URL"
    ))
}
