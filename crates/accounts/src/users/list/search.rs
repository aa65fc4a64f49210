//! Searches: a bounded number of matches, found by `tenantry.search_users`, the best first.

use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    COLUMNS, List, Part, Position, Selection, SortBy, User, Values, Wanted, sorted::Combinations,
    total::Total,
};
use crate::{Result, TenantId, db::Transaction};

/// A search finds so many users and no more: whoever sees so many types another letter, and the database would read all of
/// them for the first page.
const MATCHES: i32 = 1_000;

pub(super) async fn read(
    tx: &Transaction<'_>,
    tenant: TenantId,
    wanted: &Wanted,
    needle: &str,
) -> Result<List> {
    let selection = &wanted.selection;
    let (limit, offset) = wanted.window();
    let combinations = Combinations::of(tenant, selection);
    let Combinations { active, roles, verified, since, until, .. } = &combinations;
    let mut values = Values(vec![&tenant.0, &needle, active, roles, verified, since, until, &MATCHES]);
    let later = wanted.after().map_or(String::new(), |place| later(selection, place, &mut values));
    let order = format!(
        "rank, {} {direction} nulls last, id {direction}",
        selection.sort_by.column(),
        direction = selection.order.direction()
    );
    let (limit, offset) = (values.name(&limit), values.name(&offset));
    // First whoever is called so, then where it begins the address or a word of the name.
    let sql = format!(
        "with matches as (
           select {COLUMNS}, case
               when lower(name) = lower($2) or email = lower($2) then 0
               when strpos(tenantry.search_words(name, email), ' ' || lower($2)) > 0 then 1
               else 2
             end as rank
           from tenantry.search_users($1, $2, $3, $4, $5, $6, $7, $8)
         ),
         found as (select * from matches where true{later} order by {order} limit {limit} offset {offset})
         select f.*, m.total from (select count(*) as total from matches) m left join found f on true order by {order}"
    );
    let statement = tx.prepare_cached(&sql).await?;
    let rows = tx.query(&statement, &values.0).await?;
    let is_there = |row: &&Row| row.get::<_, Option<Uuid>>("id").is_some();
    let users = rows.iter().filter(is_there).map(|row| Ok((User::try_from(row)?, row.try_get("rank")?)));
    let mut list = List::part(wanted, users.collect::<Result<_>>()?);
    if let Part::Page { .. } = wanted.part {
        let count = rows.first().map_or(Ok(0), |row| row.try_get("total"))?;
        list.total = Some(Total { count, is_estimate: count >= i64::from(MATCHES) });
    }
    Ok(list)
}

/// What is true of those who come after `place`.
fn later<'a>(selection: &Selection, place: &'a Position, values: &mut Values<'a>) -> String {
    let (column, later, id) = (selection.sort_by.column(), selection.order.later(), values.name(&place.id.0));
    let rank = values.name(&place.rank);
    let among_equals = match place.key.is_null() {
        true => format!("{column} is null and id {later} {id}"),
        false => {
            let after = format!("({column}, id) {later} ({}, {id})", values.name(place.key.value()));
            let never =
                if selection.sort_by == SortBy::LastLoginAt { " or last_login_at is null" } else { "" };
            format!("({after}{never})")
        }
    };
    format!(" and (rank > {rank} or rank = {rank} and {among_equals})")
}
