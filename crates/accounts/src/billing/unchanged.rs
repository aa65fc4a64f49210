//! What is as it was, a page at a time: nearly all of what a comparison comes by.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use tenantry_stripe::Subscription;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    follow,
    sync::{Begun, FACTS, differs},
};
use crate::{App, Error, Result, db};

/// Notes in one transaction which of the subscriptions are stored as they are, by a fetch that asked for many at once; returns
/// their ids. For those this is all that [`apply`](super::sync::apply) does. The others are left to it: what differs, what an
/// event waits for, what a later fetch has been applied to, and whose tenant has not what they give.
///
/// Only objects are locked, in the order of their ids, and nothing is waited for after them.
///
/// # Errors
/// When the database fails; then nothing is noted.
pub async fn note(app: &App, begun: &Begun, page: &[Subscription]) -> Result<HashSet<String>> {
    let Some(settings) = &app.settings.billing else {
        return Err(Error::Internal("billing is not set up"));
    };
    let new: HashMap<&str, &Subscription> = page
        .iter()
        .filter(|subscription| !subscription.more_items)
        .map(|subscription| (subscription.id.as_str(), subscription))
        .collect();
    let ids: Vec<&str> = new.keys().copied().collect();
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let lock = "select id from tenantry.stripe_objects where id = any ($1) order by id for update";
    let statement = tx.prepare_cached(lock).await?;
    tx.execute(&statement, &[&ids]).await?;
    let stored = format!("select o.id, o.customer_id as payer, c.tenant_id, s.raw, {FACTS} {STORED}");
    let statement = tx.prepare_cached(&stored).await?;
    let stored = tx.query(&statement, &[&ids, &begun.number()]).await?;
    let mut same: Vec<(&str, Option<Uuid>)> = vec![];
    for row in &stored {
        let Some(new) = new.get(row.try_get::<_, &str>("id")?) else { continue };
        if is_same(row, new)? {
            same.push((new.id.as_str(), row.try_get("tenant_id")?));
        }
    }
    let tenants: HashSet<Uuid> = same.iter().filter_map(|(_, tenant)| *tenant).collect();
    let tenants: Vec<Uuid> = tenants.into_iter().collect();
    let in_step: HashSet<Uuid> =
        follow::in_step(&tx, &tenants, settings).await?.into_iter().map(|tenant| tenant.0).collect();
    same.retain(|(_, tenant)| tenant.is_none_or(|tenant| in_step.contains(&tenant)));
    let ids: Vec<&str> = same.iter().map(|(id, _)| *id).collect();
    let statement =
        tx.prepare_cached("update tenantry.stripe_objects set applied = $2 where id = any ($1)").await?;
    tx.execute(&statement, &[&ids, &begun.number()]).await?;
    tx.commit().await?;
    Ok(ids.into_iter().map(str::to_owned).collect())
}

/// With the tenant's row, or without a tenant where it is parked.
const STORED: &str = "from tenantry.stripe_objects o
    left join tenantry.billing_customers c on c.customer_id = o.customer_id
    left join tenantry.billing_past_customers p on p.customer_id = o.customer_id
    left join tenantry.subscriptions s on s.tenant_id = c.tenant_id and s.stripe_id = o.id
  where o.id = any ($1) and o.applied < $2 and o.dirty <= o.synced and p.customer_id is null
    and (s.id is null) = (o.parked_at is not null) and (c.tenant_id is null) = (s.id is null)";

fn is_same(row: &Row, new: &Subscription) -> Result<bool> {
    if row.try_get::<_, Option<&str>>("payer")? != Some(&new.customer) {
        return Ok(false);
    }
    match row.try_get::<_, Option<Value>>("raw")? {
        Some(raw) => Ok(raw == new.raw && !differs(row, new)?),
        // Parked, and it stays so.
        None => Ok(true),
    }
}
