//! Everything that is held of one person, as they may ask for it (GDPR, article 15).

use chrono::{DateTime, Utc};
use poem_openapi::Object;
use serde::Serialize;
use serde_json::{Value, json};

use super::{PERSON, TABLES, Table, addresses};
use crate::{
    Actor, App, Error, Result, TenantId, UserId, audit,
    db::{self, Transaction},
    users::Role,
};

/// So many rows of a table are told, the rest by the lists that there are.
const MOST: i64 = 10_000;

/// What is held of one person.
#[derive(Debug, Clone, Serialize, Object)]
pub struct PersonalData {
    /// Who.
    pub user_id: UserId,
    /// The tenant that they are a user of.
    pub tenant_id: TenantId,
    /// When it was read, all of it at one moment.
    pub taken_at: DateTime<Utc>,
    /// By where it is held.
    pub records: Vec<Records>,
}

/// What is held in one place.
#[derive(Debug, Clone, Serialize, Object)]
pub struct Records {
    /// The place.
    pub table: String,
    /// What is there. Of passwords and other secrets it says that there are some, and not which.
    pub rows: Vec<Value>,
    /// Whether that is all; there may be more than 10,000.
    pub is_whole: bool,
    /// What becomes of it when the person is erased.
    pub when_erased: String,
}

/// Everything that is held of a user, for themselves and for administrators, be the user deleted.
///
/// # Errors
/// [`Error::Forbidden`]; [`Error::NoUser`], also for who was erased.
pub async fn data(app: &App, actor: Actor, id: UserId) -> Result<PersonalData> {
    if !actor.is(id) {
        actor.require(Role::Admin)?;
    }
    let mut client = app.db.client().await?;
    let tx = db::as_actor(&mut client, actor, actor.tenant).await?;
    let sql = "select now() from tenantry.users u where tenant_id = $1 and id = $2
                 and not exists (select from tenantry.erasures e where e.tenant_id = u.tenant_id and e.user_id = u.id)";
    let statement = tx.prepare_cached(sql).await?;
    let row = tx.query_opt(&statement, &[&actor.tenant.0, &id.0]).await?.ok_or(Error::NoUser)?;
    let taken_at = row.try_get(0)?;
    let addresses = addresses(&tx, actor.tenant, id).await?;
    let mut records = vec![];
    for table in TABLES {
        if let Some(told) = table.told {
            let (rows, is_whole) = read(&tx, (actor.tenant, id, &addresses), table, told).await?;
            let when_erased = table.erased.describe().into();
            records.push(Records { table: table.name.into(), rows, is_whole, when_erased });
        }
    }
    audit::record(&tx, actor.tenant, actor, "user.data_exported", id.0, json!({})).await?;
    tx.commit().await?;
    Ok(PersonalData { user_id: id, tenant_id: actor.tenant, taken_at, records })
}

async fn read(
    tx: &Transaction<'_>,
    (tenant, id, addresses): (TenantId, UserId, &Vec<String>),
    table: &Table,
    told: &str,
) -> Result<(Vec<Value>, bool)> {
    let (name, whose) = (table.name, table.whose);
    let sql = format!(
        "{PERSON} select to_jsonb(r) from (
           select {told} from tenantry.{name} t cross join p where t.tenant_id = $1 and {whose} limit $4
         ) r"
    );
    let statement = tx.prepare_cached(&sql).await?;
    let rows = tx.query(&statement, &[&tenant.0, &id.0, addresses, &(MOST + 1)]).await?;
    let mut rows = rows.iter().map(|row| Ok(row.try_get(0)?)).collect::<Result<Vec<Value>>>()?;
    let most = usize::try_from(MOST).unwrap_or(usize::MAX);
    let is_whole = rows.len() <= most;
    rows.truncate(most);
    Ok((rows, is_whole))
}
