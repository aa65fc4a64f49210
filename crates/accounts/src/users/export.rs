//! All users of a tenant, page by page in the order of their ids. Nothing is held between two pages: no transaction, no
//! connection. Each page asks once more whether the actor may still act.

use serde_json::json;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{
    COLUMNS, Filter, Role, Selection, SortBy, User,
    list::{Combinations, Order},
};
use crate::{Actor, App, Result, audit, db};

/// So many rows are looked at for a page, however few of them are asked for.
const PAGE: i64 = 1000;

/// An export that has begun.
pub struct Export {
    app: App,
    actor: Actor,
    selection: Selection,
    /// Whoever comes next has a higher id; none: that was all.
    after: Option<Uuid>,
}

/// Begins an export of those whom `filter` lets through, and notes who takes them; `format` is for the trail.
///
/// # Errors
/// [`Error::Forbidden`](crate::Error::Forbidden), [`Error::Revoked`](crate::Error::Revoked).
pub async fn export(app: &App, actor: Actor, filter: Filter, format: &str) -> Result<Export> {
    actor.require(Role::Admin)?;
    let mut client = app.db.client().await?;
    let tx = db::as_actor(&mut client, actor, actor.tenant).await?;
    let detail = json!({"format": format, "filters": filters(&filter)});
    audit::record(&tx, actor.tenant, actor, "users.exported", actor.tenant.0, detail).await?;
    tx.commit().await?;
    drop(client);
    let selection = Selection { filter, sort_by: SortBy::CreatedAt, order: Order::Asc };
    Ok(Export { app: app.clone(), actor, selection, after: Some(Uuid::nil()) })
}

/// The names of what the users are filtered by: of a search the trail holds no more, since it may be an address.
fn filters(filter: &Filter) -> Vec<&'static str> {
    let names = [
        ("search", filter.search.is_some()),
        ("role", filter.role.is_some()),
        ("is_active", filter.is_active.is_some()),
        ("email_verified", filter.email_verified.is_some()),
        ("created_after", filter.created_after.is_some()),
        ("created_before", filter.created_before.is_some()),
    ];
    names.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect()
}

impl Export {
    /// The next users; none at the end. May be empty before that.
    ///
    /// # Errors
    /// [`Error::Revoked`](crate::Error::Revoked) when the actor may no longer act; when the database cannot be asked.
    pub async fn page(&mut self) -> Result<Option<Vec<User>>> {
        let Some(after) = self.after else { return Ok(None) };
        let tenant = self.actor.tenant;
        let mut client = self.app.db.client().await?;
        let tx = db::as_reader(&mut client, tenant).await?;
        db::stands(&tx, self.actor).await?;
        let wanted = Combinations::of(tenant, &self.selection);
        // The key alone says what is read, so that a page costs the same whoever is asked for.
        let statement = tx
            .prepare_cached(&format!(
                "select {COLUMNS}, deleted_at is null and is_active = any ($4::bool[]) and role = any ($5::text[])
                     and email_verified = any ($6::bool[]) and created_at >= $7 and created_at < $8
                     and ($9::text is null or tenantry.search_words(name, email) like
                       case when length($9) < 3 then '% ' else '%' end
                         || replace(replace(replace(lower($9), '\\', '\\\\'), '%', '\\%'), '_', '\\_') || '%') as wanted
                 from tenantry.users where tenant_id = $1 and id > $2 order by id limit $3"
            ))
            .await?;
        let search = &self.selection.filter.search;
        let values: [&(dyn ToSql + Sync); 9] = [
            &tenant.0,
            &after,
            &PAGE,
            &wanted.active,
            &wanted.roles,
            &wanted.verified,
            &wanted.since,
            &wanted.until,
            search,
        ];
        let rows = tx.query(&statement, &values).await?;
        tx.commit().await?;
        let is_last = i64::try_from(rows.len()).is_ok_and(|read| read < PAGE);
        self.after = rows.last().filter(|_| !is_last).map(|last| last.try_get("id")).transpose()?;
        let mut users = vec![];
        for row in &rows {
            if row.try_get("wanted")? {
                users.push(User::try_from(row)?);
            }
        }
        Ok(Some(users))
    }
}
