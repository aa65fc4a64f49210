//! Figures of single users, for lists that are asked for with them.

use std::collections::HashMap;

use poem_openapi::Object;
use serde::Serialize;
use uuid::Uuid;

use super::{User, logins::RECENT};
use crate::{Result, TenantId, db::Transaction};

/// Figures of a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Object)]
#[oai(rename = "UserFigures")]
pub struct Figures {
    /// How often the user has signed in within 30 days.
    pub recent_logins: i64,
    /// How many projects the user is in.
    pub total_projects: i64,
}

/// The figures of these users, in their order. One statement for all, in which each figure is counted by itself: a join of
/// both would multiply them.
pub(super) async fn of(tx: &Transaction<'_>, tenant: TenantId, users: &[User]) -> Result<Vec<Figures>> {
    let ids: Vec<_> = users.iter().map(|user| user.id.0).collect();
    let sql = format!(
        "select u.id,
           (select count(*) from tenantry.user_logins
            where tenant_id = $1 and user_id = u.id and {RECENT}) as recent_logins,
           (select count(*) from tenantry.user_projects p
            where p.tenant_id = $1 and p.user_id = u.id) as total_projects
         from unnest($2::uuid[]) as u (id)"
    );
    let rows = tx.query(&tx.prepare_cached(&sql).await?, &[&tenant.0, &ids]).await?;
    let mut found = HashMap::with_capacity(rows.len());
    for row in rows {
        let (recent_logins, total_projects) = (row.try_get("recent_logins")?, row.try_get("total_projects")?);
        found.insert(row.try_get::<_, Uuid>("id")?, Figures { recent_logins, total_projects });
    }
    Ok(ids.iter().map(|id| found.get(id).copied().unwrap_or_default()).collect())
}
