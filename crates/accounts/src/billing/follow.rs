//! Plan and seats follow what a tenant's subscriptions give.

use std::collections::HashMap;

use crate::db::Transaction;
use chrono::{DateTime, Utc};
use tenantry_jobs::SyncSubscription;
use tenantry_queue::Options;
use tenantry_stripe::Status;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    Settings,
    entitlement::{self, Entitlement, Held},
    seats,
};
use crate::{
    App, Result, TenantId,
    audit::By,
    tenants::{self, Plan},
};

/// Lets plan and seats follow what the tenant's subscriptions give now. Only when that has changed: what an operator has
/// set by hand stays until it does.
pub(super) async fn follow(
    app: &App,
    tx: &Transaction<'_>,
    tenant: TenantId,
    settings: &Settings,
) -> Result<()> {
    let Some(Standing { has: before, gets: new, .. }) = standings(tx, &[tenant.0], settings).await?.pop()
    else {
        return Ok(());
    };
    if new == before {
        return Ok(());
    }
    let statement = tx
        .prepare_cached(
            "insert into tenantry.entitlements as e (tenant_id, plan, active_until, grace_until) values ($1, $2, $3, $4)
             on conflict (tenant_id) do update set plan = excluded.plan, active_until = excluded.active_until,
               grace_until = excluded.grace_until, updated_at = now()",
        )
        .await?;
    let plan = new.plan.map(Plan::as_str);
    tx.execute(&statement, &[&tenant.0, &plan, &new.active_until, &new.grace_until]).await?;
    if new.plan != before.plan {
        let plan = new.plan.unwrap_or(Plan::Basic);
        tenants::set_plan(app, tx, tenant, plan, By::SYSTEM).await?;
    }
    if let (Some(until), true) = (new.grace_until, new.grace_until != before.grace_until) {
        // Nothing tells us that it is over.
        end_of_grace(tx, tenant, until).await?;
    }
    Ok(())
}

/// Those of `tenants` that have what their subscriptions give now, and pay for the seats they use.
pub(super) async fn in_step(
    tx: &Transaction<'_>,
    tenants: &[Uuid],
    settings: &Settings,
) -> Result<Vec<TenantId>> {
    let standings = standings(tx, tenants, settings).await?;
    let out_of_step = seats::differing(tx, settings, tenants).await?;
    let pays = |one: &Standing| out_of_step.iter().all(|item| item.tenant != one.tenant);
    let in_step = standings.into_iter().filter(|one| one.has == one.gets && pays(one));
    Ok(in_step.map(|one| one.tenant).collect())
}

/// What a tenant has, and what its subscriptions give now.
struct Standing {
    tenant: TenantId,
    has: Entitlement,
    gets: Entitlement,
}

async fn standings(tx: &Transaction<'_>, tenants: &[Uuid], settings: &Settings) -> Result<Vec<Standing>> {
    let mut held = held(tx, tenants).await?;
    let statement = tx
        .prepare_cached(
            "select t.id as tenant_id, now() as now, e.plan, e.active_until, e.grace_until
             from unnest($1::uuid[]) t (id) left join tenantry.entitlements e on e.tenant_id = t.id",
        )
        .await?;
    let standing = |row: &Row| {
        let tenant: Uuid = row.try_get("tenant_id")?;
        let has = Entitlement::try_from(row)?;
        let held = held.remove(&tenant).unwrap_or_default();
        let gets = entitlement::of(&held, settings, row.try_get::<_, DateTime<Utc>>("now")?);
        Ok(Standing { tenant: TenantId(tenant), has, gets })
    };
    tx.query(&statement, &[&tenants]).await?.iter().map(standing).collect()
}

/// What each tenant's customer pays for. What one paid who no longer pays for it counts for nothing.
async fn held(tx: &Transaction<'_>, tenants: &[Uuid]) -> Result<HashMap<Uuid, Vec<Held>>> {
    let statement = tx
        .prepare_cached(
            "select s.tenant_id, s.status, s.past_due_since,
               array_remove(array_agg(i.price_id order by i.stripe_id), null) as prices,
               array_agg(i.period_end order by i.stripe_id) filter (where i.price_id is not null) as ends
             from tenantry.subscriptions s
               join tenantry.billing_customers c on c.tenant_id = s.tenant_id and c.customer_id = s.customer_id
               left join tenantry.subscription_items i on i.tenant_id = s.tenant_id and i.subscription_id = s.id
                 -- None of something is nothing. No quantity: it is metered.
                 and i.quantity is distinct from 0
             where s.tenant_id = any ($1) group by s.tenant_id, s.id",
        )
        .await?;
    let mut of_tenants: HashMap<Uuid, Vec<Held>> = HashMap::new();
    for row in tx.query(&statement, &[&tenants]).await? {
        let prices: Vec<String> = row.try_get("prices")?;
        let ends: Option<Vec<Option<DateTime<Utc>>>> = row.try_get("ends")?;
        of_tenants.entry(row.try_get("tenant_id")?).or_default().push(Held {
            status: Status::named(row.try_get("status")?),
            past_due_since: row.try_get("past_due_since")?,
            items: prices.into_iter().zip(ends.unwrap_or_default()).collect(),
        });
    }
    Ok(of_tenants)
}

async fn end_of_grace(tx: &Transaction<'_>, tenant: TenantId, until: DateTime<Utc>) -> Result<()> {
    let statement = tx
        .prepare_cached(
            "select s.stripe_id from tenantry.subscriptions s
               join tenantry.billing_customers c on c.tenant_id = s.tenant_id and c.customer_id = s.customer_id
             where s.tenant_id = $1 and s.status = 'past_due' order by s.id limit 1",
        )
        .await?;
    let Some(row) = tx.query_opt(&statement, &[&tenant.0]).await? else { return Ok(()) };
    let job = SyncSubscription { subscription_id: row.try_get(0)?, if_dirty: false };
    let run_at = Some(until + chrono::TimeDelta::seconds(1));
    // With the time in it: one that waits for the end of an earlier grace would be too early for this one.
    let key = format!("grace:{}", until.timestamp());
    let options = Options { run_at, unique_key: Some(&key), ..Options::default() };
    tenantry_queue::enqueue_with(tx, tenant.0, &job, options).await?;
    Ok(())
}
