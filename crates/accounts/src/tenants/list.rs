//! All tenants, for those who run the service.

use super::{Plan, SELECT, Tenant};
use crate::{Actor, App, Result, TenantId, db, users::Role};

/// Which tenants.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// With this plan only.
    pub plan: Option<Plan>,
    /// Active ones or suspended ones only.
    pub is_active: Option<bool>,
    /// Part of the name or the slug, in any case.
    pub search: Option<String>,
    /// Closed ones instead of open ones.
    pub closed: bool,
    /// Older than this one.
    pub before: Option<TenantId>,
}

/// At most `limit` tenants, the newest first.
///
/// # Errors
/// [`Error::Forbidden`](crate::Error::Forbidden).
pub async fn list(app: &App, actor: Actor, filter: &Filter, limit: i64) -> Result<Vec<Tenant>> {
    actor.require(Role::SuperAdmin)?;
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    db::stands(&tx, actor).await?;
    let statement = tx
        .prepare_cached(&format!(
            "{SELECT} where t.id < $1 and (t.deleted_at is not null) = $2 and ($3::text is null or t.plan = $3)
               and ($4::bool is null or t.is_active = $4) and ($5::text is null or t.name ilike $5 or t.slug ilike $5)
             order by t.id desc limit $6"
        ))
        .await?;
    let before = filter.before.map_or(uuid::Uuid::max(), |before| before.0);
    let (plan, search) = (filter.plan.map(Plan::as_str), filter.search.as_deref().map(db::containing));
    let rows =
        tx.query(&statement, &[&before, &filter.closed, &plan, &filter.is_active, &search, &limit]).await?;
    tx.commit().await?;
    rows.iter().map(Tenant::try_from).collect()
}
