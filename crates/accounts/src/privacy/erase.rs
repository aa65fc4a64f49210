//! Erasing a person: what can be found by a key in one transaction, the rest by a job.

use chrono::{DateTime, Utc};
use poem_openapi::Object;
use serde::Serialize;
use serde_json::json;
use tenantry_cache::State;
use tenantry_jobs::EraseUser;
use tenantry_queue::Options;
use tokio_postgres::Row;

use super::{Erased, PERSON, TABLES, addresses};
use crate::{
    Actor, App, Error, Result, TenantId, UserId, audit,
    db::{self, Transaction},
    fields::Email,
    revocations::{self, Which},
    tenants::seats,
    to_the_end,
    users::{self, COLUMNS, IfMatch, Role, User},
};

/// A person who was erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Object)]
pub struct Erasure {
    /// Who it was. The id is kept, and tells nothing.
    pub user_id: UserId,
    /// When address, name and all that is found by them were erased.
    pub erased_at: DateTime<Utc>,
    /// When the last copy was: in answers that could be given once more, in the audit trail, in jobs. Null: a worker is at it.
    #[oai(nullable)]
    pub finished_at: Option<DateTime<Utc>>,
}

impl TryFrom<&Row> for Erasure {
    type Error = Error;

    fn try_from(row: &Row) -> Result<Self> {
        Ok(Self {
            user_id: UserId(row.try_get("user_id")?),
            erased_at: row.try_get("erased_at")?,
            finished_at: row.try_get("finished_at")?,
        })
    }
}

/// Erases a user, deleted or not: from here on nothing tells who it was, and who it was cannot be restored. A second time
/// changes nothing and says how far the first has come.
///
/// # Errors
/// [`Error::NoUser`], [`Error::Forbidden`], [`Error::VersionChanged`], [`Error::LastAdmin`].
pub async fn erase(app: &App, actor: Actor, id: UserId, if_match: IfMatch) -> Result<Erasure> {
    actor.require(Role::Admin)?;
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, actor.tenant).await?;
        // Of those who erase, restore or delete the same user each sees what the one before has done.
        seats::lock(&tx, actor.tenant).await?;
        if let Some(erasure) = known(&tx, actor.tenant, id).await? {
            if erasure.finished_at.is_none() {
                go_on(&tx, actor.tenant, id).await?;
                tx.commit().await?;
                app.db.nudge();
            }
            return Ok(erasure);
        }
        let (before, is_live) = lock(&tx, actor, id, &if_match).await?;
        if before.administers() {
            users::another_admin(&tx, &before).await?;
        }
        let addresses = addresses(&tx, actor.tenant, id).await?;
        let invited = open_invitations(&tx, actor.tenant, &addresses).await?;
        if is_live || invited > 0 {
            seats::give_back(&app, &tx, actor.tenant, i32::from(is_live) + invited).await?;
        }
        let mut revoked = revocations::end_sessions(&tx, actor.tenant, id, Which::All).await?;
        remove(&tx, actor.tenant, id, &addresses).await?;
        let user = overwrite(&tx, actor.tenant, id).await?;
        revoked.push(revocations::outdate_user(&tx, actor.tenant, id).await?);
        let erasure = note(&tx, actor.tenant, id, &addresses).await?;
        audit::record(&tx, actor.tenant, actor, "user.erased", id.0, json!({"role": before.role})).await?;
        let forgotten: Vec<Email> = addresses.into_iter().map(Email::from).collect();
        users::commit(&app, tx, &user, State::Deleted, &forgotten.iter().collect::<Vec<_>>()).await?;
        app.revocations.add(&revoked);
        Ok(erasure)
    })
    .await
}

async fn known(tx: &Transaction<'_>, tenant: TenantId, id: UserId) -> Result<Option<Erasure>> {
    let sql =
        "select user_id, erased_at, finished_at from tenantry.erasures where tenant_id = $1 and user_id = $2";
    let statement = tx.prepare_cached(sql).await?;
    tx.query_opt(&statement, &[&tenant.0, &id.0]).await?.as_ref().map(Erasure::try_from).transpose()
}

/// Has a worker go on, should nobody be about to: somebody may have cancelled the job.
async fn go_on(tx: &Transaction<'_>, tenant: TenantId, id: UserId) -> Result<()> {
    let statement = tx
        .prepare_cached(
            "select exists (
               select from tenantry.jobs where tenant_id = $1 and payload ? 'user_id' and payload ->> 'user_id' = $2::uuid::text
                 and kind = 'erase_user' and state in ('pending', 'running', 'failed')
             )",
        )
        .await?;
    if !tx.query_one(&statement, &[&tenant.0, &id.0]).await?.try_get(0)? {
        enqueue(tx, tenant, id).await?;
    }
    Ok(())
}

async fn enqueue(tx: &Transaction<'_>, tenant: TenantId, id: UserId) -> Result<()> {
    let key = id.to_string();
    let options = Options { unique_key: Some(&key), ..Options::default() };
    tenantry_queue::enqueue_with(tx, tenant.0, &EraseUser { user_id: id.0 }, options).await?;
    Ok(())
}

/// Locks the row of a user, and says whether it is that of one who is not deleted.
async fn lock(tx: &Transaction<'_>, actor: Actor, id: UserId, if_match: &IfMatch) -> Result<(User, bool)> {
    let statement = tx
        .prepare_cached(&format!(
            "select {COLUMNS}, deleted_at is null as is_live from tenantry.users where tenant_id = $1 and id = $2
             for no key update"
        ))
        .await?;
    let row = tx.query_opt(&statement, &[&actor.tenant.0, &id.0]).await?.ok_or(Error::NoUser)?;
    let user = User::try_from(&row)?;
    if user.role > actor.rank() {
        return Err(Error::Forbidden);
    }
    if if_match.as_ref().is_some_and(|versions| !versions.contains(&user.version)) {
        return Err(Error::VersionChanged);
    }
    Ok((user, row.try_get("is_live")?))
}

/// How many seats are reserved for these addresses. Nobody can accept meanwhile: the seats' lock is held.
async fn open_invitations(tx: &Transaction<'_>, tenant: TenantId, addresses: &Vec<String>) -> Result<i32> {
    let statement = tx
        .prepare_cached(
            "select count(*)::int from tenantry.invitations
             where tenant_id = $1 and email = any ($2) and accepted_at is null and ended_at is null",
        )
        .await?;
    Ok(tx.query_one(&statement, &[&tenant.0, addresses]).await?.try_get(0)?)
}

/// Removes or overwrites what the list says is to be.
async fn remove(tx: &Transaction<'_>, tenant: TenantId, id: UserId, addresses: &Vec<String>) -> Result<()> {
    for table in TABLES {
        let (name, whose) = (table.name, table.whose);
        let sql = match table.erased {
            Erased::Removed => {
                format!("{PERSON} delete from tenantry.{name} t using p where t.tenant_id = $1 and {whose}")
            }
            Erased::Overwritten(by) => {
                format!(
                    "{PERSON} update tenantry.{name} t set {by} from p where t.tenant_id = $1 and {whose}"
                )
            }
            Erased::Otherwise(_) | Erased::Kept(_) => continue,
        };
        let statement = tx.prepare_cached(&sql).await?;
        tx.execute(&statement, &[&tenant.0, &id.0, addresses]).await?;
    }
    Ok(())
}

/// What stays of the row until it is purged: that there was somebody of this id.
async fn overwrite(tx: &Transaction<'_>, tenant: TenantId, id: UserId) -> Result<User> {
    let statement = tx
        .prepare_cached(&format!(
            "update tenantry.users set
               email = 'erased-' || id || '@erased.invalid', name = 'Erased', pending_email = null, email_verified = false,
               last_login_at = null, is_active = false, deleted_at = coalesce(deleted_at, now()),
               auth_version = auth_version + 1, version = version + 1, updated_at = now()
             where tenant_id = $1 and id = $2
             returning {COLUMNS}"
        ))
        .await?;
    User::try_from(&tx.query_one(&statement, &[&tenant.0, &id.0]).await?)
}

/// Notes the erasure, and has a worker do the rest when `tx` commits.
async fn note(
    tx: &Transaction<'_>,
    tenant: TenantId,
    id: UserId,
    addresses: &Vec<String>,
) -> Result<Erasure> {
    let statement = tx
        .prepare_cached(
            "insert into tenantry.erasures (tenant_id, user_id, texts) values ($1, $2, $3)
             returning user_id, erased_at, finished_at",
        )
        .await?;
    let row = tx.query_one(&statement, &[&tenant.0, &id.0, addresses]).await?;
    enqueue(tx, tenant, id).await?;
    Erasure::try_from(&row)
}
