//! Sorted lists. What they may be filtered by comes first in each index, so every combination of it is a range that is read in
//! order. A list is a merge of at most six of them, however few users a filter lets through; of twelve for operators, who see
//! inactive users beside active ones.
//!
//! Statements have one text for each order and each way to begin, not for each filter: every connection keeps its plans.

use chrono::{DateTime, Utc};
use tokio_postgres::{Row, types::Timestamp};
use uuid::Uuid;

use super::{
    COLUMNS, List, Part, Position, Selection, SortBy, User, Values, Wanted,
    total::{self, COUNTED, Total},
};
use crate::{Result, TenantId, db::Transaction, users::Role};

/// A list of those who were made within a time, in another order than that: if there are no more of them than this they are
/// sorted, and else they are picked out of the order.
const FEW: i64 = COUNTED;

pub(super) async fn read(tx: &Transaction<'_>, tenant: TenantId, wanted: &Wanted) -> Result<List> {
    let selection = &wanted.selection;
    let combinations = Combinations::of(tenant, selection);
    let is_across = combinations.is_bounded && selection.sort_by != SortBy::CreatedAt;
    if is_across && wanted.after().is_none_or(|place| !place.wide) {
        let (list, total) = page(tx, wanted, &combinations, Source::Few).await?;
        if total <= FEW {
            return Ok(list);
        }
    }
    let (mut list, total) = page(tx, wanted, &combinations, Source::Sorted).await?;
    list.next = list.next.map(|place| Position { wide: is_across, ..place });
    if total <= COUNTED || list.total.is_none() {
        return Ok(list);
    }
    let total = total::estimate(tx, tenant, &combinations).await?;
    Ok(List { total: Some(total), ..list })
}

/// What users a list is filtered by, as the database takes it.
pub(in crate::users) struct Combinations {
    tenant: TenantId,
    pub(in crate::users) active: Vec<bool>,
    pub(in crate::users) roles: Vec<&'static str>,
    pub(in crate::users) verified: Vec<bool>,
    /// Of when they were made; infinite where there is no bound. An expression would do for the planner, but not behind
    /// row-level security.
    pub(in crate::users) since: Timestamp<DateTime<Utc>>,
    pub(in crate::users) until: Timestamp<DateTime<Utc>>,
    is_bounded: bool,
}

impl Combinations {
    pub(in crate::users) fn of(tenant: TenantId, selection: &Selection) -> Self {
        let either = |one: Option<bool>| one.map_or(vec![true, false], |one| vec![one]);
        let filter = &selection.filter;
        let roles = filter.role.map_or(vec![Role::User, Role::Admin, Role::SuperAdmin], |role| vec![role]);
        Self {
            tenant,
            active: either(filter.is_active),
            roles: roles.into_iter().map(Role::as_str).collect(),
            verified: either(filter.email_verified),
            since: filter.created_after.map_or(Timestamp::NegInfinity, Timestamp::Value),
            until: filter.created_before.map_or(Timestamp::PosInfinity, Timestamp::Value),
            is_bounded: filter.created_after.is_some() || filter.created_before.is_some(),
        }
    }

    /// The condition as one, without what lets everybody through: that is not for the planner to guess.
    pub(super) fn condition<'a>(&'a self, values: &mut Values<'a>) -> String {
        let mut condition = format!("tenant_id = {} and deleted_at is null", values.name(&self.tenant.0));
        if let [active] = &*self.active {
            condition += &format!(" and is_active = {}", values.name(active));
        }
        if let [role] = &*self.roles {
            condition += &format!(" and role = {}", values.name(role));
        }
        if let [verified] = &*self.verified {
            condition += &format!(" and email_verified = {}", values.name(verified));
        }
        condition + &self.within(values)
    }

    /// The condition on when they were made, if there is one. Both bounds are always named, since one text is enough.
    fn within<'a>(&'a self, values: &mut Values<'a>) -> String {
        match self.is_bounded {
            true => format!(
                " and created_at >= {} and created_at < {}",
                values.name(&self.since),
                values.name(&self.until)
            ),
            false => String::new(),
        }
    }

    /// Every range of an index that there is, each with what makes it empty where it is not asked for. Super administrators
    /// are of one tenant.
    fn ranges<'a>(&'a self, values: &mut Values<'a>) -> Vec<String> {
        let (tenant, roles, verified) =
            (values.name(&self.tenant.0), values.name(&self.roles), values.name(&self.verified));
        let active: Vec<_> = self.active.iter().map(|active| values.name(active)).collect();
        let there: &[&str] = match self.tenant {
            TenantId::SYSTEM => &["user", "admin", "super_admin"],
            _ => &["user", "admin"],
        };
        let mut ranges = vec![];
        for role in there {
            for is_verified in [true, false] {
                for is_active in &active {
                    ranges.push(format!(
                        "tenant_id = {tenant} and is_active = {is_active} and role = '{role}'
                           and email_verified = {is_verified} and deleted_at is null
                           and '{role}' = any ({roles}::text[]) and {is_verified} = any ({verified}::bool[])"
                    ));
                }
            }
        }
        ranges
    }
}

/// Where the users of a list come from.
#[derive(Clone, Copy, PartialEq)]
enum Source {
    /// From the index that is in this order.
    Sorted,
    /// From the one that is in the order of their making; those who were made within the time are sorted then.
    Few,
}

/// The users of a list, and how many there are up to one more than [`COUNTED`]; nought where nobody counts.
async fn page(
    tx: &Transaction<'_>,
    wanted: &Wanted,
    combinations: &Combinations,
    source: Source,
) -> Result<(List, i64)> {
    let (limit, offset) = wanted.window();
    let (column, direction) = (wanted.selection.sort_by.column(), wanted.selection.order.direction());
    let mut values = Values::default();
    let ranges = combinations.ranges(&mut values);
    let within = combinations.within(&mut values);
    let window = format!("limit {}::bigint offset {}::bigint", values.name(&limit), values.name(&offset));
    let (few, count) = match (source, &wanted.part) {
        (Source::Few, _) => (few(column, &ranges, &within), "select count(*) from few".into()),
        (Source::Sorted, Part::Page { .. }) => (String::new(), count(&ranges, &within)),
        (Source::Sorted, Part::After(_)) => (String::new(), "select 0::bigint".into()),
    };
    let keys = keys(wanted, source, &ranges, &within, &window, &mut values);
    // The rest of each user is read by its key, when what is skipped has been skipped in the index.
    let sql = format!(
        "with {few}keys as ({keys} order by part, key {direction}, id {direction} {window}),
           found as (
             select k.part, k.key, u.* from keys k cross join lateral (
               select {COLUMNS} from tenantry.users u where u.tenant_id = $1 and u.id = k.id offset 0
             ) u
           ),
           counted (total) as ({count})
         select f.*, c.total from counted c left join found f on true
         order by f.part, f.key {direction}, f.id {direction}"
    );
    let statement = tx.prepare_cached(&sql).await?;
    let rows = tx.query(&statement, &values.0).await?;
    let total = rows.first().map_or(Ok(0), |row| row.try_get("total"))?;
    // Where there is nobody there still is a total.
    let is_there = |row: &&Row| row.get::<_, Option<Uuid>>("id").is_some();
    let users = rows.iter().filter(is_there).map(|row| Ok((User::try_from(row)?, None)));
    let mut list = List::part(wanted, users.collect::<Result<_>>()?);
    list.total =
        matches!(wanted.part, Part::Page { .. }).then_some(Total { count: total, is_estimate: false });
    Ok((list, total))
}

/// Whoever comes within the window: which part, what it is sorted by, and the id.
fn keys<'a>(
    wanted: &'a Wanted,
    source: Source,
    ranges: &[String],
    within: &str,
    window: &str,
    values: &mut Values<'a>,
) -> String {
    let (selection, after) = (&wanted.selection, wanted.after());
    let (column, direction) = (selection.sort_by.column(), selection.order.direction());
    let in_order = format!("order by {column} {direction}, id {direction}");
    let sorted = |condition: String| match source {
        Source::Few => format!("select {column} as key, id from few where true{condition}"),
        Source::Sorted if within.is_empty() || selection.sort_by == SortBy::CreatedAt => {
            union(ranges, |range| {
                format!(
                    "select {column} as key, id from tenantry.users where {range}{within}{condition} {in_order}"
                )
            })
        }
        // Picked out of the index, which has the time as well: the planner might prefer to sort all whom the time lets through.
        Source::Sorted => union(ranges, |range| {
            format!(
                "select {column} as key, id from (
                   select {column}, id, created_at from tenantry.users where {range}{condition} {in_order} offset 0
                 ) r where true{within} {in_order}"
            )
        }),
    };
    if selection.sort_by != SortBy::LastLoginAt {
        let condition = after.map_or(String::new(), |place| later(selection, place, values));
        return format!("select 0 as part, key, id from ({}) s", sorted(condition));
    }
    // Those who never signed in come last from either end, and an index has them at one.
    let mut parts = vec![];
    if after.is_none_or(|place| !place.key.is_null()) {
        let condition = after.map_or(String::new(), |place| later(selection, place, values));
        parts.push((0, sorted(format!(" and {column} is not null{condition}"))));
    }
    let beyond = after.filter(|place| place.key.is_null());
    let condition = beyond.map_or(String::new(), |place| later(selection, place, values));
    parts.push((1, sorted(format!(" and {column} is null{condition}"))));
    let part = |(n, sorted): &(i32, String)| {
        let most = window.replace(" offset ", " + ");
        format!(
            "(select {n} as part, key, id from ({sorted}) s order by key {direction}, id {direction} {most})"
        )
    };
    let parts: Vec<_> = parts.iter().map(part).collect();
    format!("select part, key, id from ({}) p", parts.join(" union all "))
}

/// What is true of those who come after `place`.
fn later<'a>(selection: &Selection, place: &'a Position, values: &mut Values<'a>) -> String {
    let (column, later, id) = (selection.sort_by.column(), selection.order.later(), values.name(&place.id.0));
    match place.key.is_null() {
        true => format!(" and id {later} {id}"),
        false => format!(" and ({column}, id) {later} ({}, {id})", values.name(place.key.value())),
    }
}

/// Those who were made within the time, up to one more than [`FEW`], the newest first.
fn few(column: &str, ranges: &[String], within: &str) -> String {
    let made = union(ranges, |range| {
        format!(
            "select {column}, id, created_at from tenantry.users where {range}{within} order by created_at desc, id desc"
        )
    });
    let most = FEW + 1;
    format!(
        "few as materialized (select {column}, id from ({made}) m order by created_at desc, id desc limit {most}), "
    )
}

/// How many there are, up to one more than [`COUNTED`]: out of an index, whatever order it has.
fn count(ranges: &[String], within: &str) -> String {
    let most = COUNTED + 1;
    let counted = union(ranges, |range| {
        format!(
            "select created_at, id from tenantry.users where {range}{within} order by created_at desc, id desc"
        )
    });
    format!("select count(*) from (select from ({counted}) c limit {most}) c")
}

fn union(ranges: &[String], select: impl Fn(&String) -> String) -> String {
    ranges.iter().map(|range| format!("({})", select(range))).collect::<Vec<_>>().join(" union all ")
}
