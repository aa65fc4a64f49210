//! What Stripe has beside what we have.

use std::collections::HashMap;

use serde_json::Value;

use crate::{PRICES, Result, cluster::Cluster};

/// What was seen and checked.
#[derive(Default)]
pub(crate) struct Check {
    passed: usize,
    failed: usize,
    said: Vec<String>,
}

impl Check {
    pub(crate) fn that(&mut self, promise: &str, kept: bool, found: String) {
        self.say(format!("{}  {promise}: {found}", if kept { "ok    " } else { "FAILED" }));
        if kept { self.passed += 1 } else { self.failed += 1 }
    }

    /// Shown at once, and kept.
    pub(crate) fn say(&mut self, line: String) {
        println!("{line}");
        self.said.push(line);
    }

    /// Says how many, and returns how many failed.
    pub(crate) fn close(&mut self) -> usize {
        self.say(format!("{} passed, {} failed", self.passed, self.failed));
        self.failed
    }

    pub(crate) fn said(&self) -> String {
        self.said.join("\n")
    }
}

/// A subscription with all that must be equal.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Facts {
    status: String,
    cancel_at_period_end: bool,
    payment_paused: bool,
    items: Vec<(String, String, Option<i64>)>,
    plan: String,
}

/// One line for each subscription that is not here what it is there.
pub(crate) async fn differences(
    cluster: &Cluster,
    truth: &[Value],
    prices: &[String],
) -> Result<Vec<String>> {
    let ours = ours(cluster).await?;
    let different = |subscription: &Value| {
        let id = subscription["id"].as_str().unwrap_or_default();
        let (theirs, ours) = (theirs(subscription, prices), ours.get(id));
        (ours != Some(&theirs)).then(|| format!("{id}: Stripe has {theirs:?}, we have {ours:?}"))
    };
    Ok(truth.iter().filter_map(different).collect())
}

fn theirs(subscription: &Value, prices: &[String]) -> Facts {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let item = |item: &Value| (text(&item["id"]), text(&item["price"]["id"]), item["quantity"].as_i64());
    let mut items: Vec<_> =
        subscription["items"]["data"].as_array().into_iter().flatten().map(item).collect();
    items.sort();
    let status = text(&subscription["status"]);
    let sold = |price: &String| prices.iter().position(|known| known == price).map(|n| PRICES[n].1);
    let plan = match status.as_str() {
        "active" | "trialing" | "past_due" => items.first().and_then(|(_, price, _)| sold(price)),
        _ => None,
    };
    Facts {
        status,
        cancel_at_period_end: subscription["cancel_at_period_end"].as_bool().unwrap_or(false),
        payment_paused: subscription["pause_collection"].is_object(),
        items,
        plan: plan.unwrap_or("basic").to_owned(),
    }
}

async fn ours(cluster: &Cluster) -> Result<HashMap<String, Facts>> {
    let database = cluster.database();
    let sql = "select s.stripe_id, s.status, s.cancel_at_period_end, s.payment_paused, t.plan
               from tenantry.subscriptions s join tenantry.tenants t on t.id = s.tenant_id";
    let mut ours = HashMap::new();
    for row in database.query(sql, &[]).await? {
        let facts = Facts {
            status: row.try_get("status")?,
            cancel_at_period_end: row.try_get("cancel_at_period_end")?,
            payment_paused: row.try_get("payment_paused")?,
            items: vec![],
            plan: row.try_get("plan")?,
        };
        ours.insert(row.try_get("stripe_id")?, facts);
    }
    let sql =
        "select s.stripe_id as of, i.stripe_id, i.price_id, i.quantity from tenantry.subscription_items i
                 join tenantry.subscriptions s on s.tenant_id = i.tenant_id and s.id = i.subscription_id
               order by i.stripe_id";
    for row in database.query(sql, &[]).await? {
        if let Some(facts) = ours.get_mut(row.try_get::<_, &str>("of")?) {
            facts.items.push((row.try_get("stripe_id")?, row.try_get("price_id")?, row.try_get("quantity")?));
        }
    }
    Ok(ours)
}
