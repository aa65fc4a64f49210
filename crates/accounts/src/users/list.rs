//! Lists in page mode: filter, order and the total from one statement, so that they agree with each other.

use poem_openapi::Enum;

use super::{COLUMNS, Role, User};
use crate::{App, Result, TenantId, db};

/// Which users.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Part of the name or the address, in any case.
    pub search: Option<String>,
    /// Of this role only.
    pub role: Option<Role>,
    /// Active ones, inactive ones, or (none) both.
    pub is_active: Option<bool>,
}

/// What users are sorted by; ties by id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Enum)]
#[oai(rename_all = "snake_case")]
pub enum SortBy {
    /// When they were made.
    CreatedAt,
    /// Their address.
    Email,
    /// Their name.
    Name,
    /// When they last signed in; those who never did come last.
    LastLoginAt,
}

/// Which end comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Enum)]
#[oai(rename_all = "snake_case")]
pub enum Order {
    /// Smallest first.
    Asc,
    /// Largest first.
    Desc,
}

/// One page and how many there are in all, of one moment.
#[derive(Debug, Clone)]
pub struct Page {
    /// The users of the page.
    pub users: Vec<User>,
    /// Users that fit the filter.
    pub total: i64,
}

/// The users of `tenant` that fit `filter`, `limit` of them after the first `offset`.
pub async fn list(
    app: &App,
    tenant: TenantId,
    filter: &Filter,
    (sort_by, order): (SortBy, Order),
    (offset, limit): (i64, i64),
) -> Result<Page> {
    // The column and the direction come from closed lists, never from the request's text.
    let column = match sort_by {
        SortBy::CreatedAt => "created_at",
        SortBy::Email => "email",
        SortBy::Name => "name",
        SortBy::LastLoginAt => "last_login_at",
    };
    let direction = match order {
        Order::Asc => "asc",
        Order::Desc => "desc",
    };
    let matching = "tenant_id = $1 and deleted_at is null and ($2::bool is null or is_active = $2)
           and ($3::text is null or role = $3) and ($4::text is null or name ilike $4 or email ilike $4)";
    let sql = format!(
        "with page as (
           select {COLUMNS} from tenantry.users where {matching}
           order by {column} {direction} nulls last, id {direction} limit $5 offset $6
         )
         select page.*, count.total
         from (select count(*) as total from tenantry.users where {matching}) count left join page on true
         order by page.{column} {direction} nulls last, page.id {direction}"
    );
    let pattern = filter.search.as_deref().map(db::containing);
    let role = filter.role.map(Role::as_str);

    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    let statement = tx.prepare_cached(&sql).await?;
    let rows =
        tx.query(&statement, &[&tenant.0, &filter.is_active, &role, &pattern, &limit, &offset]).await?;
    tx.commit().await?;

    let total = rows.first().map_or(Ok(0), |row| row.try_get("total"))?;
    let on_page = |row: &&tokio_postgres::Row| row.get::<_, Option<uuid::Uuid>>("id").is_some();
    let users = rows.iter().filter(on_page).map(User::try_from).collect::<Result<_>>()?;
    Ok(Page { users, total })
}
