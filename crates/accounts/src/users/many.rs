//! What those share who make many users in one transaction: rows, and COMMIT.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use tenantry_cache::Version;
use tenantry_jobs::{InvalidateUser, ResetPasswordEmail, Stale, VerifyEmail};
use uuid::Uuid;

use super::{
    COLUMNS, Role, User,
    change::{SECOND_LOOK, tell_other_nodes},
    key, pointer,
};
use crate::{
    App, Result, TenantId, UserId,
    db::{self, Transaction},
    primary::NotPrimary,
};

/// A user to be made with others.
pub(crate) struct NewRow<'a> {
    pub(crate) email: &'a str,
    pub(crate) name: &'a str,
    pub(crate) role: Role,
    /// Whether the address counts as theirs without a mail.
    pub(crate) is_verified: bool,
    pub(crate) is_active: bool,
    /// When the user was made elsewhere; none: now.
    pub(crate) made_at: Option<DateTime<Utc>>,
    /// Without one the user cannot sign in.
    pub(crate) password_hash: Option<&'a str>,
}

/// How many users one job makes caches forget.
const USERS_A_JOB: usize = 100;

/// Inserts rows and credentials, and enqueues the mails if there are to be any. Leaves out whose address somebody has got
/// meanwhile.
pub(crate) async fn insert(
    tx: &Transaction<'_>,
    tenant: TenantId,
    rows: &[NewRow<'_>],
    mails: bool,
) -> Result<Vec<User>> {
    let made = insert_rows(tx, tenant, rows).await?;
    let hashes: HashMap<_, _> = rows.iter().filter_map(|row| Some((row.email, row.password_hash?))).collect();
    let (brought, chosen): (Vec<&User>, Vec<&User>) =
        made.iter().partition(|user| hashes.contains_key(user.email.as_str()));
    if !brought.is_empty() {
        let ids: Vec<_> = brought.iter().map(|user| user.id.0).collect();
        let hashes: Vec<_> = brought.iter().filter_map(|user| hashes.get(user.email.as_str())).collect();
        let statement = tx
            .prepare_cached(
                "insert into tenantry.credentials (tenant_id, user_id, password_hash)
                 select $1, n.id, n.hash from unnest($2::uuid[], $3::text[]) as n (id, hash)",
            )
            .await?;
        tx.execute(&statement, &[&tenant.0, &ids, &hashes]).await?;
    }
    if mails {
        let verify = brought.iter().filter(|user| user.is_active && !user.email_verified);
        let verify: Vec<_> = verify.map(|user| VerifyEmail { user_id: user.id.0 }).collect();
        let choose = chosen.iter().filter(|user| user.is_active);
        let choose: Vec<_> = choose.map(|user| ResetPasswordEmail { user_id: user.id.0 }).collect();
        if !verify.is_empty() {
            tenantry_queue::enqueue_many(tx, tenant.0, &verify, None, 0).await?;
        }
        if !choose.is_empty() {
            tenantry_queue::enqueue_many(tx, tenant.0, &choose, None, 0).await?;
        }
    }
    Ok(made)
}

async fn insert_rows(tx: &Transaction<'_>, tenant: TenantId, rows: &[NewRow<'_>]) -> Result<Vec<User>> {
    // Nobody knows these before COMMIT, which `commit_new` relies on.
    let ids: Vec<_> = rows.iter().map(|_| UserId::generate().0).collect();
    let emails: Vec<_> = rows.iter().map(|row| row.email).collect();
    let names: Vec<_> = rows.iter().map(|row| row.name).collect();
    let roles: Vec<_> = rows.iter().map(|row| row.role.as_str()).collect();
    let active: Vec<_> = rows.iter().map(|row| row.is_active).collect();
    let verified: Vec<_> = rows.iter().map(|row| row.is_verified).collect();
    let made_at: Vec<_> = rows.iter().map(|row| row.made_at).collect();
    let statement = tx
        .prepare_cached(&format!(
            "insert into tenantry.users (tenant_id, id, email, name, role, is_active, email_verified, created_at)
             select $1, n.id, n.email, n.name, n.role, n.active, n.verified, coalesce(n.made_at, now())
             from unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::boolean[], $7::boolean[], $8::timestamptz[])
               as n (id, email, name, role, active, verified, made_at)
             on conflict (tenant_id, email) where deleted_at is null do nothing
             returning {COLUMNS}"
        ))
        .await?;
    let made = tx
        .query(&statement, &[&tenant.0, &ids, &emails, &names, &roles, &active, &verified, &made_at])
        .await?;
    made.iter().map(User::try_from).collect()
}

/// COMMIT of users that were made in `tx`, and of no other change of a user: no cache has to be told of them.
///
/// Whatever a cache could hold of a user it holds under the id, and until COMMIT nobody but this transaction knows the id, so
/// that nobody can have asked for it and been told that it is not there. A pointer by the address may lead to somebody who had
/// it before; whoever follows it compares the address. That an address is nobody's is never held. So only the lists that this
/// node shares must not be those of before (docs/cache.md).
pub(crate) async fn commit_new(app: &App, tx: Transaction<'_>, tenant: TenantId) -> Result<()> {
    // As `begin_writes_on` does: what is written to a server that is the primary no more is lost.
    if let Err(overtaken) = app.db.primary().stands(tx.opened()) {
        let _ = tx.rollback().await;
        return Err(overtaken.into());
    }
    let _change = app.lists.change(tenant);
    tx.commit().await?;
    app.db.nudge();
    Ok(())
}

/// As [`commit`](super::commit), for many users that were written together, with all of their addresses: floors, jobs, feed,
/// COMMIT, in this order (docs/cache.md).
pub(super) async fn commit(app: &App, tx: Transaction<'_>, tenant: TenantId, users: &[User]) -> Result<()> {
    let rows: Vec<_> = users.iter().map(|user| (key(tenant, user.id), user.version)).collect();
    let Some(mut writes) = app.cache.begin_writes_on(tx.opened(), &rows).await else {
        let _ = tx.rollback().await;
        return Err(NotPrimary::Overtaken.into());
    };
    writes.unlink(users.iter().map(|user| pointer(tenant, &user.email)).collect()).await;
    let rows: Vec<_> = users.iter().map(|user| (user.id.0, user.version)).collect();
    let _change = app.lists.change(tenant);
    if let Err(error) = tell(&tx, tenant, &rows, writes.confirmed()).await {
        // Nothing was committed, whether ROLLBACK arrives or the connection is lost.
        let _ = tx.rollback().await;
        writes.rolled_back();
        return Err(error.into());
    }
    match tx.commit().await {
        Ok(()) => {
            app.db.nudge();
            writes.committed().await;
            Ok(())
        }
        Err(error) if db::rolled_back(&error) => {
            writes.rolled_back();
            Err(error.into())
        }
        Err(error) => {
            writes.unknown().await;
            Err(error.into())
        }
    }
}

/// Enqueues what does the rest should we die, and tells every node what Redis could not be told.
async fn tell(
    tx: &Transaction<'_>,
    tenant: TenantId,
    rows: &[(Uuid, Version)],
    confirmed: bool,
) -> std::result::Result<(), tokio_postgres::Error> {
    let stale = |&(id, version): &(Uuid, Version)| Stale { id, version };
    let jobs: Vec<_> = rows
        .chunks(USERS_A_JOB)
        .map(|rows| InvalidateUser { users: rows.iter().map(stale).collect() })
        .collect();
    let delay = if confirmed { SECOND_LOOK } else { Duration::ZERO };
    tenantry_queue::enqueue_many(tx, tenant.0, &jobs, Some(Utc::now() + delay), 0).await?;
    if confirmed { Ok(()) } else { tell_other_nodes(tx, tenant, rows).await }
}
