//! Invitations: a seat is reserved for somebody who chooses name and password themselves.

use crate::db::Transaction;
use chrono::{DateTime, Utc};
use poem_openapi::Object;
use serde::Serialize;
use serde_json::json;
use tenantry_cache::State;
use tenantry_jobs::InvitationEmail;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    Actor, App, Error, InvitationId, Letter, Network, Result, TenantId,
    audit::{self, By},
    db::{self, OnConstraint},
    fields::{Email, Name, NewPassword, Secret},
    idempotency::Once,
    passwords,
    tenants::seats,
    to_the_end,
    tokens::{self, Token},
    users::{self, NewUser, Password, Role, User},
};

/// Somebody who was invited and has not accepted yet.
#[derive(Debug, Clone, Serialize, Object)]
pub struct Invitation {
    /// Names the invitation.
    pub id: InvitationId,
    /// Where it was sent.
    pub email: Email,
    /// What they may do once they have accepted.
    pub role: Role,
    /// Who invited them: a user, or an API key.
    pub invited_by: Uuid,
    /// When they were invited.
    pub created_at: DateTime<Utc>,
    /// Until when they may accept.
    pub expires_at: DateTime<Utc>,
}

const COLUMNS: &str = "id, email, role, invited_by, created_at, expires_at";

impl TryFrom<&Row> for Invitation {
    type Error = Error;

    fn try_from(row: &Row) -> Result<Self> {
        Ok(Self {
            id: InvitationId(row.try_get("id")?),
            email: row.try_get::<_, String>("email")?.into(),
            role: Role::named(row.try_get("role")?).ok_or(Error::Internal("a stored role has no name"))?,
            invited_by: row.try_get("invited_by")?,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
        })
    }
}

/// Invites people, all or none, and reserves a seat for each.
///
/// # Errors
/// [`Error::Forbidden`]; [`Error::EmailTaken`] when one of them is a user already, or is invited; [`Error::NoSeat`];
/// [`Error::InFlight`].
pub async fn create(
    app: &App,
    actor: Actor,
    emails: Vec<Email>,
    role: Role,
    once: Once<Vec<Invitation>>,
) -> Result<Vec<Invitation>> {
    actor.require(Role::Admin)?;
    if role > actor.rank() || role == Role::SuperAdmin {
        return Err(Error::Forbidden);
    }
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, actor.tenant).await?;
        let once = once.begin(&tx).await?;
        let n = i32::try_from(emails.len()).map_err(|_| Error::NoSeat)?;
        seats::take(&app, &tx, actor.tenant, n).await?;
        // One that was not accepted in time is in nobody's way.
        end_expired(&tx, actor.tenant).await?;
        let mut invitations = vec![];
        for email in &emails {
            let invitation = insert(&app, &tx, actor, email, role).await?;
            let (id, detail) = (invitation.id, json!({"role": role}));
            audit::record(&tx, actor.tenant, actor, "invitation.created", id.0, detail).await?;
            invitations.push(invitation);
        }
        once.end(&app, &tx, &invitations).await?;
        tx.commit().await?;
        app.db.nudge();
        Ok(invitations)
    })
    .await
}

async fn insert(
    app: &App,
    tx: &Transaction<'_>,
    actor: Actor,
    email: &Email,
    role: Role,
) -> Result<Invitation> {
    let id = InvitationId::generate();
    let by = actor.id().ok_or(Error::Forbidden)?;
    // Whoever creates a user takes the same seats' lock first, so nobody becomes one in between.
    let statement = tx
        .prepare_cached(&format!(
            "insert into tenantry.invitations (tenant_id, id, email, role, invited_by, expires_at)
             select $1, $2, $3, $4, $5, now() + make_interval(secs => $6)
             where not exists (select from tenantry.users where tenant_id = $1 and email = $3 and deleted_at is null)
             returning {COLUMNS}"
        ))
        .await?;
    let ttl = app.settings.invitation_ttl.as_secs_f64();
    let row = tx
        .query_opt(&statement, &[&actor.tenant.0, &id.0, &email.as_str(), &role.as_str(), &by, &ttl])
        .await
        .on_constraint("invitations_open", Error::EmailTaken)?
        .ok_or(Error::EmailTaken)?;
    tenantry_queue::enqueue(tx, actor.tenant.0, &InvitationEmail { invitation_id: id.0 }).await?;
    Invitation::try_from(&row)
}

/// The open invitations of the actor's tenant, the newest first; at most 1,000.
///
/// # Errors
/// [`Error::Forbidden`].
pub async fn list(app: &App, actor: Actor) -> Result<Vec<Invitation>> {
    actor.require(Role::Admin)?;
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, actor.tenant).await?;
    let statement = tx
        .prepare_cached(&format!(
            "select {COLUMNS} from tenantry.invitations
             where tenant_id = $1 and accepted_at is null and ended_at is null and expires_at > now()
             order by id desc limit 1000"
        ))
        .await?;
    let rows = tx.query(&statement, &[&actor.tenant.0]).await?;
    tx.commit().await?;
    rows.iter().map(Invitation::try_from).collect()
}

/// Takes an invitation back; its seat is free again.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NoInvitation`].
pub async fn withdraw(app: &App, actor: Actor, id: InvitationId) -> Result<()> {
    actor.require(Role::Admin)?;
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, actor.tenant).await?;
        seats::lock(&tx, actor.tenant).await?;
        let sql = "update tenantry.invitations set ended_at = now(), hash = null
                   where tenant_id = $1 and id = $2 and accepted_at is null and ended_at is null";
        let statement = tx.prepare_cached(sql).await?;
        if tx.execute(&statement, &[&actor.tenant.0, &id.0]).await? == 0 {
            return Err(Error::NoInvitation);
        }
        seats::give_back(&app, &tx, actor.tenant, 1).await?;
        audit::record(&tx, actor.tenant, actor, "invitation.withdrawn", id.0, json!({})).await?;
        tx.commit().await?;
        Ok(())
    })
    .await
}

/// Sends an invitation once more; it may be accepted for as long as a new one, by the new link only.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NoInvitation`].
pub async fn resend(app: &App, actor: Actor, id: InvitationId) -> Result<Invitation> {
    actor.require(Role::Admin)?;
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, actor.tenant).await?;
        let statement = tx
            .prepare_cached(&format!(
                "update tenantry.invitations set expires_at = now() + make_interval(secs => $3)
                 where tenant_id = $1 and id = $2 and accepted_at is null and ended_at is null and expires_at > now()
                 returning {COLUMNS}"
            ))
            .await?;
        let ttl = app.settings.invitation_ttl.as_secs_f64();
        let row = tx
            .query_opt(&statement, &[&actor.tenant.0, &id.0, &ttl])
            .await?
            .ok_or(Error::NoInvitation)?;
        tenantry_queue::enqueue(&tx, actor.tenant.0, &InvitationEmail { invitation_id: id.0 }).await?;
        audit::record(&tx, actor.tenant, actor, "invitation.resent", id.0, json!({})).await?;
        tx.commit().await?;
        app.db.nudge();
        Invitation::try_from(&row)
    })
    .await
}

/// What the mail is made of; a new token voids the one before. None when the invitation is no longer open.
///
/// # Errors
/// When the database cannot be asked.
pub async fn issue(app: &App, tenant: TenantId, id: InvitationId, job: Uuid) -> Result<Option<Letter>> {
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    let token = Token::generate(tenant)?;
    let statement = tx
        .prepare_cached(
            "update tenantry.invitations i set hash = $3, job_id = $4
             from tenantry.tenants t
             where i.tenant_id = $1 and i.id = $2 and i.accepted_at is null and i.ended_at is null
               and i.expires_at > now() and t.id = i.tenant_id and t.is_active and t.deleted_at is null
             returning i.email, t.name as tenant_name",
        )
        .await?;
    let row = tx.query_opt(&statement, &[&tenant.0, &id.0, &token.hash, &job]).await?;
    let Some(row) = row else { return Ok(None) };
    let to: Email = row.try_get::<_, String>("email")?.into();
    let (name, tenant_name) = (to.as_str().to_owned(), row.try_get("tenant_name")?);
    tx.commit().await?;
    Ok(Some(Letter { to, name, tenant_name, token: token.text }))
}

/// Takes the token of the mail back and makes the user, in the seat that was reserved. The address is thereby verified.
///
/// # Errors
/// [`Error::InvalidToken`], [`Error::PersonalPassword`], [`Error::EmailTaken`] when the address has become another user's,
/// [`Error::Busy`], [`Error::InFlight`].
pub async fn accept(
    app: &App,
    token: Secret,
    name: Name,
    password: NewPassword,
    from: Option<Network>,
    once: Once<User>,
) -> Result<User> {
    let (tenant, hash) = tokens::parse(&token)?;
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    // Looked at first, so that nobody makes us hash without a token.
    let statement = tx
        .prepare_cached(
            "select array[i.email, $3, t.name, t.slug] as known
             from tenantry.invitations i join tenantry.tenants t on t.id = i.tenant_id
             where i.tenant_id = $1 and i.hash = $2 and i.accepted_at is null and i.ended_at is null and i.expires_at > now()",
        )
        .await?;
    let row = tx.query_opt(&statement, &[&tenant.0, &hash, &name.as_str()]).await?;
    tx.commit().await?;
    drop(client);
    let known: Vec<String> = row.ok_or(Error::InvalidToken)?.try_get("known")?;
    passwords::refuse_personal(&password, &known)?;
    let password_hash = app.passwords.hash(password.clone()).await?;
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_tenant(&mut client, tenant).await?;
        let once = once.begin(&tx).await?;
        seats::lock(&tx, tenant).await?;
        let statement = tx
            .prepare_cached(
                "update tenantry.invitations i set accepted_at = now(), hash = null
                 from tenantry.tenants t
                 where i.tenant_id = $1 and i.hash = $2 and i.accepted_at is null and i.ended_at is null
                   and i.expires_at > now() and t.id = i.tenant_id and t.is_active and t.deleted_at is null
                 returning i.id, i.email, i.role",
            )
            .await?;
        let row = tx.query_opt(&statement, &[&tenant.0, &hash]).await?.ok_or(Error::InvalidToken)?;
        let id = InvitationId(row.try_get("id")?);
        let role = Role::named(row.try_get("role")?).ok_or(Error::Internal("a stored role has no name"))?;
        let email: Email = row.try_get::<_, String>("email")?.into();
        let password = Some(Password::Chosen(password));
        let user = NewUser { email, name, password, role, verified: true };
        let user = users::insert(&tx, tenant, &user, Some(&password_hash)).await?;
        let detail = json!({"invitation_id": id});
        audit::record(&tx, tenant, By::user(user.id, from), "invitation.accepted", user.id.0, detail).await?;
        once.end(&app, &tx, &user).await?;
        users::commit(&app, tx, &user, State::Live, &[&user.email]).await?;
        Ok(user)
    })
    .await
}

/// Ends the invitations that were not accepted in time; their seats are free again. The seats' lock is held.
pub(crate) async fn end_expired(tx: &Transaction<'_>, tenant: TenantId) -> Result<i32> {
    let statement = tx
        .prepare_cached(
            "with ended as (
               update tenantry.invitations set ended_at = now(), hash = null
               where tenant_id = $1 and accepted_at is null and ended_at is null and expires_at <= now()
               returning id
             )
             update tenantry.tenant_seats set used = used - (select count(*) from ended)::int
             where tenant_id = $1 and exists (select from ended) returning (select count(*) from ended)::int",
        )
        .await?;
    let row = tx.query_opt(&statement, &[&tenant.0]).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?.unwrap_or(0))
}
