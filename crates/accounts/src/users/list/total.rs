//! How many there are: counted as long as that is cheap, and estimated beyond.

use serde_json::Value;

use super::{Values, sorted::Combinations};
use crate::{Result, TenantId, db::Transaction};

/// Totals are exact up to here.
pub(super) const COUNTED: i64 = 10_000;

/// How many users a list has in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// So many.
    pub count: i64,
    /// Or about so many: more than were counted.
    pub is_estimate: bool,
}

/// About how many there are, when more than [`COUNTED`] are there for certain: the part of the tenant's users that the planner
/// expects, of as many as have seats.
pub(super) async fn estimate(
    tx: &Transaction<'_>,
    tenant: TenantId,
    combinations: &Combinations,
) -> Result<Total> {
    let mut values = Values::default();
    let condition = combinations.condition(&mut values);
    let expected = expected(tx, &condition, &values).await?;
    let all = self::expected(tx, "tenant_id = $1 and deleted_at is null", &Values(vec![&tenant.0])).await?;
    let sql = "select used from tenantry.tenant_seats where tenant_id = $1";
    let seats = tx.query_opt(&tx.prepare_cached(sql).await?, &[&tenant.0]).await?;
    let used: i32 = seats.map_or(Ok(0), |row| row.try_get("used"))?;
    let count = f64::from(used) * (expected / all.max(1.0)).min(1.0);
    Ok(Total { count: (count as i64).max(COUNTED + 1), is_estimate: true })
}

async fn expected(tx: &Transaction<'_>, condition: &str, values: &Values<'_>) -> Result<f64> {
    let sql = format!("explain (format json) select from tenantry.users where {condition}");
    let plan: Value = tx.query_one(&tx.prepare_cached(&sql).await?, &values.0).await?.try_get(0)?;
    Ok(plan[0]["Plan"]["Plan Rows"].as_f64().unwrap_or(0.0))
}
