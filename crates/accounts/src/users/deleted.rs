//! Users who were deleted: for a while they are listed and can be restored.

use std::time::Duration;

use chrono::{DateTime, Utc};
use poem_openapi::Object;
use serde::Serialize;
use serde_json::json;
use tenantry_cache::State;
use tenantry_jobs::ResetPasswordEmail;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{COLUMNS, IfMatch, Role, User, commit};
use crate::{
    Actor, App, Error, Result, UserId, audit,
    db::{self, OnConstraint, Transaction},
    tenants::seats,
    to_the_end,
};

/// For how long a deleted user can be restored. Then all that is theirs is removed.
pub const DELETED_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// A user who was deleted and may be restored.
#[derive(Debug, Clone, Serialize, Object)]
pub struct DeletedUser {
    /// The user as they were.
    #[serde(flatten)]
    #[oai(flatten)]
    pub user: User,
    /// When the user was deleted.
    pub deleted_at: DateTime<Utc>,
    /// Until when the user may be restored.
    pub purge_after: DateTime<Utc>,
}

/// Where a part of the list begins: after who was deleted then and has this id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeletedBefore {
    /// When.
    pub deleted_at: DateTime<Utc>,
    /// Ends ties.
    pub id: Uuid,
}

/// Those who were deleted and may be restored, the latest first.
///
/// # Errors
/// [`Error::Forbidden`].
pub async fn deleted(
    app: &App,
    actor: Actor,
    before: Option<DeletedBefore>,
    limit: i64,
) -> Result<Vec<DeletedUser>> {
    actor.require(Role::Admin)?;
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, actor.tenant).await?;
    let statement = tx
        .prepare_cached(&format!(
            "select {COLUMNS}, deleted_at, deleted_at + make_interval(secs => $2) as purge_after
             from tenantry.users u
             where tenant_id = $1 and deleted_at > now() - make_interval(secs => $2) and (deleted_at, id) < ($3, $4)
               and not exists (select from tenantry.erasures e where e.tenant_id = u.tenant_id and e.user_id = u.id)
             order by deleted_at desc, id desc limit $5"
        ))
        .await?;
    let before = before.unwrap_or(DeletedBefore { deleted_at: DateTime::<Utc>::MAX_UTC, id: Uuid::max() });
    // Later than any that PostgreSQL knows would be none.
    let at = before.deleted_at.min(Utc::now() + Duration::from_secs(24 * 3600));
    let kept = DELETED_KEPT.as_secs_f64();
    let rows = tx.query(&statement, &[&actor.tenant.0, &kept, &at, &before.id, &limit]).await?;
    tx.commit().await?;
    let user = |row: &Row| {
        let (deleted_at, purge_after) = (row.try_get("deleted_at")?, row.try_get("purge_after")?);
        Ok(DeletedUser { user: User::try_from(row)?, deleted_at, purge_after })
    };
    rows.iter().map(user).collect()
}

/// Brings a deleted user back, in a seat and with the address they had. Password, second factor and sessions are gone: the user
/// gets a mail to choose a password.
///
/// # Errors
/// [`Error::NoUser`], also for those who are not deleted, were erased, or were deleted too long ago; [`Error::EmailTaken`],
/// [`Error::NoSeat`], [`Error::Forbidden`], [`Error::VersionChanged`].
pub async fn restore(app: &App, actor: Actor, id: UserId, if_match: IfMatch) -> Result<User> {
    actor.require(Role::Admin)?;
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, actor.tenant).await?;
        seats::lock(&tx, actor.tenant).await?;
        let before = lock_deleted(&tx, actor, id, &if_match).await?;
        seats::take(&app, &tx, actor.tenant, 1).await?;
        let statement = tx
            .prepare_cached(&format!(
                "update tenantry.users set deleted_at = null, is_active = true, version = version + 1, updated_at = now()
                 where tenant_id = $1 and id = $2 returning {COLUMNS}"
            ))
            .await?;
        let row = tx
            .query_one(&statement, &[&actor.tenant.0, &before.id.0])
            .await
            .on_constraint("users_tenant_email_key", Error::EmailTaken)?;
        let user = User::try_from(&row)?;
        tenantry_queue::enqueue(&tx, actor.tenant.0, &ResetPasswordEmail { user_id: id.0 }).await?;
        audit::record(&tx, actor.tenant, actor, "user.restored", id.0, json!({"role": user.role})).await?;
        commit(&app, tx, &user, State::Live, &[&user.email]).await?;
        Ok(user)
    })
    .await
}

/// Locks the row of a deleted user whom `actor` may restore.
async fn lock_deleted(tx: &Transaction<'_>, actor: Actor, id: UserId, if_match: &IfMatch) -> Result<User> {
    let statement = tx
        .prepare_cached(&format!(
            "select {COLUMNS} from tenantry.users u
             where tenant_id = $1 and id = $2 and deleted_at > now() - make_interval(secs => $3)
               and not exists (select from tenantry.erasures e where e.tenant_id = u.tenant_id and e.user_id = u.id)
             for no key update of u"
        ))
        .await?;
    let kept = DELETED_KEPT.as_secs_f64();
    let row = tx.query_opt(&statement, &[&actor.tenant.0, &id.0, &kept]).await?.ok_or(Error::NoUser)?;
    let user = User::try_from(&row)?;
    if user.role > actor.rank() {
        return Err(Error::Forbidden);
    }
    if if_match.as_ref().is_some_and(|versions| !versions.contains(&user.version)) {
        return Err(Error::VersionChanged);
    }
    Ok(user)
}
