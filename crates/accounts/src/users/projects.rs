//! Which projects a user is in. Projects are the caller's own: their ids are all that is known of them here.

use chrono::{DateTime, Utc};
use poem_openapi::Object;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Role;
use crate::{
    Actor, App, Error, Result, TenantId, UserId, audit,
    db::{self, Transaction},
    fields::ProjectId,
    to_the_end,
};

/// How many projects a user may be in.
pub const MOST: i64 = 1_000;

/// A project that a user is in.
#[derive(Clone, Debug, Serialize, Deserialize, Object)]
#[oai(rename = "UserProject")]
pub struct Project {
    /// The project, as its makers name it.
    pub project_id: ProjectId,
    /// Since when the user is in it.
    pub created_at: DateTime<Utc>,
}

/// The projects of a user, up to `limit` of those that come after `after`, by their ids: one's own, or anybody's as an
/// administrator.
///
/// # Errors
/// [`Error::NoUser`], [`Error::Forbidden`].
pub async fn list(
    app: &App,
    actor: Actor,
    user: UserId,
    after: Option<ProjectId>,
    limit: i64,
) -> Result<Vec<Project>> {
    if !actor.is(user) {
        actor.require(Role::Admin)?;
    }
    let mut client = app.db.client().await?;
    let tx = db::as_reader(&mut client, actor.tenant).await?;
    let statement = tx
        .prepare_cached("select from tenantry.users where tenant_id = $1 and id = $2 and deleted_at is null")
        .await?;
    tx.query_opt(&statement, &[&actor.tenant.0, &user.0]).await?.ok_or(Error::NoUser)?;
    let statement = tx
        .prepare_cached(
            "select project_id, created_at from tenantry.user_projects
             where tenant_id = $1 and user_id = $2 and project_id > $3 order by project_id limit $4",
        )
        .await?;
    let after = after.as_ref().map_or("", ProjectId::as_str);
    let rows = tx.query(&statement, &[&actor.tenant.0, &user.0, &after, &limit]).await?;
    tx.commit().await?;
    rows.iter()
        .map(|row| {
            Ok(Project {
                project_id: row.try_get::<_, String>("project_id")?.into(),
                created_at: row.try_get("created_at")?,
            })
        })
        .collect()
}

/// Puts a user into a project, unless they are in it.
///
/// # Errors
/// [`Error::NoUser`], [`Error::Forbidden`], [`Error::TooManyProjects`].
pub async fn add(app: &App, actor: Actor, user: UserId, project: ProjectId) -> Result<()> {
    let sql = "insert into tenantry.user_projects (tenant_id, user_id, project_id) values ($1, $2, $3)
               on conflict (tenant_id, user_id, project_id) do nothing";
    change(app, actor, user, project, "user.project_added", sql).await
}

/// Takes a user out of a project, if they are in it.
///
/// # Errors
/// [`Error::NoUser`], [`Error::Forbidden`].
pub async fn remove(app: &App, actor: Actor, user: UserId, project: ProjectId) -> Result<()> {
    let sql = "delete from tenantry.user_projects where tenant_id = $1 and user_id = $2 and project_id = $3";
    change(app, actor, user, project, "user.project_removed", sql).await
}

async fn change(
    app: &App,
    actor: Actor,
    user: UserId,
    project: ProjectId,
    action: &'static str,
    sql: &'static str,
) -> Result<()> {
    actor.require(Role::Admin)?;
    let app = app.clone();
    to_the_end(async move {
        let tenant = actor.tenant;
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, tenant).await?;
        lock(&tx, tenant, user).await?;
        let statement = tx.prepare_cached(sql).await?;
        if tx.execute(&statement, &[&tenant.0, &user.0, &project.as_str()]).await? == 0 {
            return Ok(());
        }
        bound(&tx, tenant, user).await?;
        audit::record(&tx, tenant, actor, action, user.0, json!({"project_id": project})).await?;
        // The row of the user stays as it is, and so does the cache; lists with figures do not.
        let _change = app.lists.change(tenant);
        Ok(tx.commit().await?)
    })
    .await
}

/// Locks a user for others who change what projects they are in.
async fn lock(tx: &Transaction<'_>, tenant: TenantId, user: UserId) -> Result<()> {
    let statement = tx
        .prepare_cached(
            "select from tenantry.users where tenant_id = $1 and id = $2 and deleted_at is null for no key update",
        )
        .await?;
    tx.query_opt(&statement, &[&tenant.0, &user.0]).await?.ok_or(Error::NoUser)?;
    Ok(())
}

/// Refuses when the user is in more projects than anybody may be; the user is locked.
async fn bound(tx: &Transaction<'_>, tenant: TenantId, user: UserId) -> Result<()> {
    let statement = tx
        .prepare_cached("select count(*) from tenantry.user_projects where tenant_id = $1 and user_id = $2")
        .await?;
    let projects: i64 = tx.query_one(&statement, &[&tenant.0, &user.0]).await?.try_get(0)?;
    if projects > MOST { Err(Error::TooManyProjects) } else { Ok(()) }
}
