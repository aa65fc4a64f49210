//! Changes of a user. Each is one transaction that carries its audit event, its jobs and its cache floor; see
//! `commit` for the order in which these become true.

use std::time::Duration;

use serde_json::json;
use tenantry_cache::{
    State, Version,
    planted::{self, Bug},
};
use tenantry_jobs::{InvalidateUser, ResetPasswordEmail, Stale, VerifyEmail};
use tenantry_queue::Options;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{COLUMNS, Role, User, key, pointer};
use crate::{
    Actor, App, Error, Result, TenantId, UserId, Who, audit,
    db::{self, OnConstraint, Transaction},
    fields::{Email, Name, NewPassword},
    idempotency::Once,
    mail_tokens::{self, Purpose},
    notices,
    passwords::{self, StoredHash},
    primary::NotPrimary,
    revocations::{self, Which},
    tenants::seats,
    to_the_end,
};

/// How long after COMMIT the invalidation job looks again, when the floor stood: by then the writer has long filled
/// the entry itself, and the job finds nothing to do.
pub(super) const SECOND_LOOK: Duration = Duration::from_secs(2);

/// The versions that a conditional change may start from; none: any.
pub type IfMatch = Option<Vec<Version>>;

/// A user to be made.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// Unique within the tenant.
    pub email: Email,
    /// The user's full name.
    pub name: Name,
    /// Without one the user cannot sign in.
    pub password: Option<Password>,
    /// At most the role of the one who makes the user.
    pub role: Role,
    /// Whether the address counts as theirs without a mail; an operator's word.
    pub verified: bool,
}

/// The password of a user to be made.
#[derive(Debug, Clone)]
pub enum Password {
    /// One that is chosen now.
    Chosen(NewPassword),
    /// The hash of one that was chosen elsewhere; an operator's word.
    Hashed(StoredHash),
}

/// Makes a user in the actor's tenant and sends the verification mail. Super administrators are made by operators, in the
/// tenant `system`.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NoTenant`], [`Error::PersonalPassword`], [`Error::EmailTaken`], [`Error::NoSeat`],
/// [`Error::Busy`], [`Error::InFlight`].
pub async fn create(app: &App, actor: Actor, user: NewUser, once: Once<User>) -> Result<User> {
    actor.require(Role::Admin)?;
    let is_operator = actor.who == Who::Operator;
    let promotes = user.role == Role::SuperAdmin && !(is_operator && actor.tenant == TenantId::SYSTEM);
    if user.role > actor.rank() || promotes || (user.verified && !is_operator) {
        return Err(Error::Forbidden);
    }
    if matches!(actor.who, Who::ApiKey(_)) && user.password.is_some() {
        // Whoever holds the key could sign in as somebody of their making, and go on when it is revoked.
        return Err(Error::Forbidden);
    }
    let hash = match user.password.clone() {
        Some(Password::Chosen(password)) => {
            let [tenant_name, slug] = known_about(app, actor.tenant).await?;
            let known = [user.email.as_str(), user.name.as_str(), &tenant_name, &slug];
            passwords::refuse_personal(&password, &known)?;
            Some(app.passwords.hash(password).await?)
        }
        Some(Password::Hashed(_)) if !is_operator => return Err(Error::Forbidden),
        Some(Password::Hashed(hash)) => Some(hash.as_str().to_owned()),
        None => None,
    };
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, actor.tenant).await?;
        let once = once.begin(&tx).await?;
        seats::take(&app, &tx, actor.tenant, 1).await?;
        let user = insert(&tx, actor.tenant, &user, hash.as_deref()).await?;
        audit::record(&tx, actor.tenant, actor, "user.created", user.id.0, json!({"role": user.role}))
            .await?;
        once.end(&app, &tx, &user).await?;
        commit(&app, tx, &user, State::Live, &[&user.email]).await?;
        Ok(user)
    })
    .await
}

/// Name and slug of a tenant. In a transaction of its own, since nothing is held while passwords are hashed.
async fn known_about(app: &App, tenant: TenantId) -> Result<[String; 2]> {
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    let statement = tx.prepare_cached("select name, slug from tenantry.tenants where id = $1").await?;
    let row = tx.query_opt(&statement, &[&tenant.0]).await?.ok_or(Error::NoTenant)?;
    tx.commit().await?;
    Ok([row.try_get("name")?, row.try_get("slug")?])
}

/// Inserts row and credentials and enqueues the mail: to choose a password, where there is none, or else to verify the
/// address, unless it is.
pub(crate) async fn insert(
    tx: &Transaction<'_>,
    tenant: TenantId,
    user: &NewUser,
    password_hash: Option<&str>,
) -> Result<User> {
    let id = UserId::generate();
    let row = insert_row(tx, tenant, id, user).await?;
    let credentials = insert_credentials(tx, tenant, id, password_hash).await?;
    let mail = async {
        if password_hash.is_none() {
            tenantry_queue::enqueue(tx, tenant.0, &ResetPasswordEmail { user_id: id.0 }).await?;
        } else if !user.verified {
            tenantry_queue::enqueue(tx, tenant.0, &VerifyEmail { user_id: id.0 }).await?;
        }
        Ok(())
    };
    let (user, _) = db::pipelined(row, db::pipelined(credentials, mail)).await?;
    Ok(user)
}

/// Prepares what inserts the row.
async fn insert_row<'a>(
    tx: &'a Transaction<'_>,
    tenant: TenantId,
    id: UserId,
    user: &'a NewUser,
) -> Result<impl Future<Output = Result<User>> + 'a> {
    let statement = tx
        .prepare_cached(&format!(
            "insert into tenantry.users (tenant_id, id, email, name, role, email_verified)
             values ($1, $2, $3, $4, $5, $6) returning {COLUMNS}"
        ))
        .await?;
    Ok(async move {
        let (email, name, role) = (user.email.as_str(), user.name.as_str(), user.role.as_str());
        let values: [&(dyn ToSql + Sync); 6] = [&tenant.0, &id.0, &email, &name, &role, &user.verified];
        let row = tx.query_one(&statement, &values).await;
        User::try_from(&row.on_constraint("users_tenant_email_key", Error::EmailTaken)?)
    })
}

/// Prepares what inserts the hash, if there is one.
async fn insert_credentials<'a>(
    tx: &'a Transaction<'_>,
    tenant: TenantId,
    id: UserId,
    hash: Option<&'a str>,
) -> Result<impl Future<Output = Result<()>> + 'a> {
    let sql = "insert into tenantry.credentials (tenant_id, user_id, password_hash) values ($1, $2, $3)";
    let statement = tx.prepare_cached(sql).await?;
    Ok(async move {
        if let Some(hash) = hash {
            tx.execute(&statement, &[&tenant.0, &id.0, &hash]).await?;
        }
        Ok(())
    })
}

/// What shall be different. What is none stays.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// A new address. It counts when it is proven, whoever asks. Who reads mail at the old one is told.
    pub email: Option<Email>,
    /// The address counts at once, and has to be verified; by operators only.
    pub at_once: bool,
    /// A new name.
    pub name: Option<Name>,
    /// A new role; ends the tokens issued for the old one.
    pub role: Option<Role>,
    /// Inactive users cannot sign in, and their sessions end.
    pub is_active: Option<bool>,
}

/// Changes a user: one's own name and address, or, as an administrator, anyone's record.
///
/// `if_match` are the versions the caller will change; none: any. A change that changes nothing writes nothing.
///
/// # Errors
/// [`Error::NoUser`], [`Error::Forbidden`], [`Error::VersionChanged`], [`Error::EmailTaken`], [`Error::LastAdmin`].
pub async fn update(app: &App, actor: Actor, id: UserId, change: Change, if_match: IfMatch) -> Result<User> {
    let administrative = change.role.is_some() || change.is_active.is_some();
    if administrative || !actor.is(id) {
        actor.require(Role::Admin)?;
    }
    if change.role.is_some_and(|role| role > actor.rank() || role == Role::SuperAdmin) {
        return Err(Error::Forbidden);
    }
    if change.at_once && actor.who != Who::Operator {
        return Err(Error::Forbidden);
    }
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, actor.tenant).await?;
        if administrative {
            // The first lock of all that touch who administers a tenant: two admins cannot demote each other at once.
            seats::lock(&tx, actor.tenant).await?;
        }
        let before = lock(&tx, actor, id, &if_match).await?;
        let role = change.role.unwrap_or(before.role);
        let is_active = change.is_active.unwrap_or(before.is_active);
        let (email, pending_email) = match change.email {
            None => (before.email.clone(), before.pending_email.clone()),
            Some(wanted) if wanted == before.email => (wanted, None),
            Some(wanted) if change.at_once => (wanted, None),
            Some(wanted) => (before.email.clone(), Some(wanted)),
        };
        let name = change.name.as_ref().map_or(before.name.as_str(), Name::as_str);
        let changed = [
            ("email", email != before.email),
            ("pending_email", pending_email != before.pending_email),
            ("name", name != before.name),
            ("role", role != before.role),
            ("is_active", is_active != before.is_active),
        ];
        if !changed.iter().any(|(_, changed)| *changed) {
            return Ok(before);
        }
        if before.administers() && (role < Role::Admin || !is_active) {
            another_admin(&tx, &before).await?;
        }
        let statement = tx
            .prepare_cached(&format!(
                "update tenantry.users set
                   email = $3, name = $4, role = $5, is_active = $6, pending_email = $7,
                   email_verified = email_verified and email = $3,
                   auth_version = auth_version + case when role <> $5 or is_active <> $6 then 1 else 0 end,
                   version = version + 1, updated_at = now()
                 where tenant_id = $1 and id = $2
                 returning {COLUMNS}"
            ))
            .await?;
        let pending = pending_email.as_ref().map(Email::as_str);
        let update = async {
            let (email, role) = (email.as_str(), role.as_str());
            let values: [&(dyn ToSql + Sync); 7] =
                [&actor.tenant.0, &id.0, &email, &name, &role, &is_active, &pending];
            tx.query_one(&statement, &values).await.on_constraint("users_tenant_email_key", Error::EmailTaken)
        };
        let fields: Vec<_> = changed.iter().filter(|(_, changed)| *changed).map(|(field, _)| field).collect();
        let detail = json!({"fields": fields, "role": change.role, "is_active": change.is_active});
        let record = audit::record(&tx, actor.tenant, actor, "user.updated", id.0, detail);
        let (row, ()) = db::pipelined(update, record).await?;
        let user = User::try_from(&row)?;
        let mut revoked = vec![];
        if role != before.role || is_active != before.is_active {
            revoked.push(revocations::outdate_user(&tx, actor.tenant, id).await?);
        }
        if !is_active && before.is_active {
            revoked.extend(revocations::end_sessions(&tx, actor.tenant, id, Which::All).await?);
        }
        if (&user.email, &user.pending_email) != (&before.email, &before.pending_email) {
            address_changes(&tx, &before, &user).await?;
        }
        let moved = [&before.email, &user.email];
        commit(&app, tx, &user, State::Live, if user.email != before.email { &moved } else { &[] }).await?;
        app.revocations.add(&revoked);
        Ok(user)
    })
    .await
}

/// Deletes a user: the row stays, marked; address and seat are free again, sessions and credentials end.
///
/// # Errors
/// [`Error::NoUser`], [`Error::Forbidden`], [`Error::VersionChanged`], [`Error::LastAdmin`].
pub async fn delete(app: &App, actor: Actor, id: UserId, if_match: IfMatch) -> Result<()> {
    actor.require(Role::Admin)?;
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, actor.tenant).await?;
        seats::give_back(&app, &tx, actor.tenant, 1).await?;
        let before = lock(&tx, actor, id, &if_match).await?;
        if before.administers() {
            another_admin(&tx, &before).await?;
        }
        let statement = tx
            .prepare_cached(&format!(
                "update tenantry.users set
                   deleted_at = now(), is_active = false, pending_email = null, auth_version = auth_version + 1,
                   version = version + 1, updated_at = now()
                 where tenant_id = $1 and id = $2
                 returning {COLUMNS}"
            ))
            .await?;
        let user = User::try_from(&tx.query_one(&statement, &[&actor.tenant.0, &id.0]).await?)?;
        let statement = tx
            .prepare_cached("delete from tenantry.credentials where tenant_id = $1 and user_id = $2")
            .await?;
        tx.execute(&statement, &[&actor.tenant.0, &id.0]).await?;
        let statement = tx
            .prepare_cached("delete from tenantry.second_factors where tenant_id = $1 and user_id = $2")
            .await?;
        tx.execute(&statement, &[&actor.tenant.0, &id.0]).await?;
        let mut revoked = revocations::end_sessions(&tx, actor.tenant, id, Which::All).await?;
        revoked.push(revocations::outdate_user(&tx, actor.tenant, id).await?);
        let purposes = [Purpose::VerifyEmail, Purpose::ChangeEmail, Purpose::ResetPassword];
        mail_tokens::void(&tx, actor.tenant, id, &purposes).await?;
        audit::record(&tx, actor.tenant, actor, "user.deleted", id.0, json!({})).await?;
        commit(&app, tx, &user, State::Deleted, &[&user.email]).await?;
        app.revocations.add(&revoked);
        Ok(())
    })
    .await
}

/// Carries a changed row to its end: floor, job, feed, COMMIT, write-through, in this order (docs/cache.md).
///
/// Before COMMIT the floor bars every older fill, so a reader that is late cannot bring the old row back; the job,
/// which commits with the change, does what a writer that dies after COMMIT leaves undone. `addresses` are those that the
/// change gives to somebody or takes away.
pub(crate) async fn commit(
    app: &App,
    tx: Transaction<'_>,
    user: &User,
    state: State,
    addresses: &[&Email],
) -> Result<()> {
    let entry = user.entry(state)?;
    // Goes when this returns, however it does: a list that is asked for after the answer is read after the change.
    let _change = app.lists.change(user.tenant_id);
    planted::point("after-update").await;
    let Some(mut write) =
        app.cache.begin_write_on(tx.opened(), &key(user.tenant_id, user.id), user.version).await
    else {
        // The node knows of a fail-over: what this connection commits may be lost.
        let _ = tx.rollback().await;
        return Err(NotPrimary::Overtaken.into());
    };
    planted::point("after-floor").await;
    if !addresses.is_empty() {
        let pointers: Vec<_> = addresses.iter().map(|email| pointer(user.tenant_id, email)).collect();
        write.unlink(&pointers).await;
    }
    let mut job = InvalidateUser { users: vec![Stale { id: user.id.0, version: user.version }] };
    if planted::bug(Bug::NoOutbox) {
        job.users.clear();
    }
    let delay = if write.confirmed() { SECOND_LOOK } else { Duration::ZERO };
    let enqueued =
        tenantry_queue::enqueue_with(&tx, user.tenant_id.0, &job, Options { delay, ..Options::default() })
            .await;
    let told = match enqueued {
        Ok(_) if !write.confirmed() => {
            tell_other_nodes(&tx, user.tenant_id, &[(user.id.0, user.version)]).await
        }
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = told {
        // Nothing was committed, whether ROLLBACK arrives or the connection is lost.
        let _ = tx.rollback().await;
        write.rolled_back().await;
        return Err(error.into());
    }
    match tx.commit().await {
        Ok(()) => {
            planted::point("after-commit").await;
            app.db.nudge();
            write.committed(entry).await;
            planted::point("before-ack").await;
            Ok(())
        }
        Err(error) if db::rolled_back(&error) => {
            write.rolled_back().await;
            Err(error.into())
        }
        Err(error) => {
            // The connection was lost in COMMIT: only the row knows.
            write.unknown(settled_version(app, user).await.ok()).await;
            Err(error.into())
        }
    }
}

/// Redis, which others may reach, could not be told that older entries are void: the feed tells every node.
pub(super) async fn tell_other_nodes(
    tx: &Transaction<'_>,
    tenant: TenantId,
    users: &[(Uuid, Version)],
) -> std::result::Result<(), tokio_postgres::Error> {
    let (ids, versions): (Vec<_>, Vec<_>) = users.iter().copied().unzip();
    let statement = tx
        .prepare_cached(
            "insert into tenantry.revocations (tenant_id, subject, subject_id, min_version)
             select $1, 'cached_user', u.id, u.version from unnest($2::uuid[], $3::bigint[]) as u (id, version)",
        )
        .await?;
    tx.execute(&statement, &[&tenant.0, &ids, &versions]).await?;
    Ok(())
}

/// The version of a row once whoever holds it has ended: without the lock a COMMIT that is still under way would be
/// missed. 0 when there is no row.
async fn settled_version(app: &App, user: &User) -> Result<Version> {
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, user.tenant_id).await?;
    let sql = "select version from tenantry.users where tenant_id = $1 and id = $2 for share";
    let row = tx.query_opt(sql, &[&user.tenant_id.0, &user.id.0]).await?;
    tx.commit().await?;
    Ok(row.map_or(Ok(0), |row| row.try_get("version"))?)
}

/// Makes Redis forget what is older than these versions: what the job does for a writer that died.
///
/// # Errors
/// [`tenantry_cache::Unreachable`] while Redis is away.
pub async fn invalidate(
    app: &App,
    tenant: TenantId,
    users: &[Stale],
) -> std::result::Result<(), tenantry_cache::Unreachable> {
    for stale in users {
        app.cache.invalidate(&key(tenant, UserId(stale.id)), stale.version).await?;
    }
    planted::point("after-job").await;
    Ok(())
}

/// Removes up to `batch` users who were deleted longer than `keep` ago, with all that is theirs; returns how many. Its own
/// transaction. A cache that still has the entry of such a user says the same as the row that is gone: there is none.
///
/// # Errors
/// When the database fails.
pub async fn purge_deleted(app: &App, keep: Duration, batch: u32) -> Result<u64> {
    let client = app.db.client().await?;
    let batch = i32::try_from(batch).unwrap_or(i32::MAX);
    let statement =
        client.prepare_cached("select tenantry.purge_deleted_users(make_interval(secs => $1), $2)").await?;
    let removed: i64 = client.query_one(&statement, &[&keep.as_secs_f64(), &batch]).await?.try_get(0)?;
    Ok(removed.unsigned_abs())
}

impl User {
    pub(crate) fn administers(&self) -> bool {
        self.role >= Role::Admin && self.is_active
    }
}

/// Locks the row of a user whom `actor` may change.
pub(crate) async fn lock(tx: &Transaction<'_>, actor: Actor, id: UserId, if_match: &IfMatch) -> Result<User> {
    let statement = tx
        .prepare_cached(&format!(
            "select {COLUMNS} from tenantry.users where tenant_id = $1 and id = $2 and deleted_at is null for no key update"
        ))
        .await?;
    let row = tx.query_opt(&statement, &[&actor.tenant.0, &id.0]).await?.ok_or(Error::NoUser)?;
    let user = User::try_from(&row)?;
    if user.role > actor.rank() {
        return Err(Error::Forbidden);
    }
    let if_match = if_match.as_ref().filter(|_| !planted::bug(Bug::IfMatchIgnored));
    if if_match.is_some_and(|versions| !versions.contains(&user.version)) {
        return Err(Error::VersionChanged);
    }
    Ok(user)
}

/// Refuses when `user` is the only active administrator of the tenant; the seats' lock is held.
pub(crate) async fn another_admin(tx: &Transaction<'_>, user: &User) -> Result<()> {
    let statement = tx
        .prepare_cached(
            "select exists (
               select from tenantry.users
               where tenant_id = $1 and id <> $2 and role in ('admin', 'super_admin') and is_active and deleted_at is null
             )",
        )
        .await?;
    let another: bool = tx.query_one(&statement, &[&user.tenant_id.0, &user.id.0]).await?.try_get(0)?;
    if another { Ok(()) } else { Err(Error::LastAdmin) }
}

/// Voids the links that were mailed to an address the user no longer has or wants, asks the new one to be verified, and
/// tells those who read mail at the one that is given up.
async fn address_changes(tx: &Transaction<'_>, before: &User, after: &User) -> Result<()> {
    let (tenant, id) = (after.tenant_id, after.id);
    if let Some(wanted) = &after.pending_email {
        // Told now where it can be; what decides is the constraint, when the address is proven.
        let sql = "select exists (select from tenantry.users where tenant_id = $1 and email = $2 and deleted_at is null)";
        let statement = tx.prepare_cached(sql).await?;
        if tx.query_one(&statement, &[&tenant.0, &wanted.as_str()]).await?.try_get(0)? {
            return Err(Error::EmailTaken);
        }
    }
    mail_tokens::void(tx, tenant, id, &[Purpose::ChangeEmail]).await?;
    if after.email != before.email {
        mail_tokens::void(tx, tenant, id, &[Purpose::VerifyEmail, Purpose::ResetPassword]).await?;
    }
    if after.email != before.email || after.pending_email.is_some() {
        tenantry_queue::enqueue(tx, tenant.0, &VerifyEmail { user_id: id.0 }).await?;
        if before.email_verified {
            notices::enqueue(tx, before).await?;
        }
    }
    Ok(())
}
