//! Taking events in.

use std::collections::HashSet;

use chrono::DateTime;
use tenantry_stripe::Event;

use crate::{App, Result, TenantId};

/// How an event came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Stripe sent it.
    Webhook,
    /// We asked for what we had missed.
    Reconcile,
}

/// Takes an event in: in one transaction it is noted, its subscription is dirty, and one job waits to fetch that. Says
/// whether it was new. Asks nobody else.
///
/// # Errors
/// When the database cannot be asked: then Stripe has to send it again.
pub async fn receive(app: &App, event: &Event, by: By) -> Result<bool> {
    let client = app.db.client().await?;
    let _asking = tenantry_trace::InDatabase::asking("select tenantry.receive_stripe_event");
    let sql = "select tenantry.receive_stripe_event($1, $2, $3, $4, $5, $6)
               from set_config('tenantry.traceparent', $7, true)";
    let statement = client.prepare_cached(sql).await?;
    let happened = DateTime::from_timestamp(event.created, 0).unwrap_or_default();
    let by = match by {
        By::Webhook => "webhook",
        By::Reconcile => "reconcile",
    };
    let row = client
        .query_one(
            &statement,
            &[
                &event.id,
                &event.kind,
                &happened,
                &event.subscription,
                &event.customer,
                &by,
                &crate::db::traceparent(),
            ],
        )
        .await?;
    app.db.nudge();
    Ok(row.try_get(0)?)
}

/// Those of `events` that have not been taken in.
///
/// # Errors
/// When the database cannot be asked.
pub async fn unknown(app: &App, events: Vec<Event>) -> Result<Vec<Event>> {
    let mut client = app.db.client().await?;
    let tx = crate::db::as_system(&mut client).await?;
    let ids: Vec<_> = events.iter().map(|event| event.id.as_str()).collect();
    let statement = tx.prepare_cached("select id from tenantry.stripe_events where id = any ($1)").await?;
    let rows = tx.query(&statement, &[&ids]).await?;
    tx.commit().await?;
    let known = rows.iter().map(|row| row.try_get(0)).collect::<std::result::Result<HashSet<String>, _>>()?;
    Ok(events.into_iter().filter(|event| !known.contains(&event.id)).collect())
}

/// Has fetched what events have made dirty ten minutes ago and is still so, and what is parked though somebody is known by
/// now to pay for it: their jobs are dead, or were cancelled. Returns how many that are.
///
/// # Errors
/// When the database cannot be asked.
pub async fn fetch_neglected(app: &App) -> Result<u64> {
    let mut client = app.db.client().await?;
    let tx = crate::db::as_system(&mut client).await?;
    let statement = tx
        .prepare_cached(
            "with neglected as (
               select o.id from tenantry.stripe_objects o
                 left join tenantry.billing_customers c on c.customer_id = o.customer_id
               where (o.dirty > o.synced and o.newest_event < now() - interval '10 min')
                 or (o.parked_at is not null and c.tenant_id is not null)
               order by o.id limit 1000)
             select tenantry.enqueue_job('sync_subscription', jsonb_build_object('subscription_id', id, 'if_dirty', true), $1,
               unique_key => 'neglected:' || id) from neglected",
        )
        .await?;
    let neglected = tx.query(&statement, &[&TenantId::SYSTEM.0]).await?;
    tx.commit().await?;
    app.db.nudge();
    Ok(neglected.len() as u64)
}

/// Forgets events that Stripe no longer sends: it gives up after three days, and lists them for thirty.
///
/// # Errors
/// When the database fails.
pub async fn prune(app: &App, batch: u32) -> Result<u64> {
    let mut client = app.db.client().await?;
    let tx = crate::db::as_system(&mut client).await?;
    let statement = tx
        .prepare_cached(
            "delete from tenantry.stripe_events where id in (
               select id from tenantry.stripe_events where received_at < now() - interval '35 days'
               order by received_at limit $1)",
        )
        .await?;
    let removed = tx.execute(&statement, &[&i64::from(batch)]).await?;
    tx.commit().await?;
    Ok(removed)
}
