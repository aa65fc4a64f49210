//! What became of each row.

use serde_json::Value;

use super::find;
use crate::{Actor, App, Error, ImportId, Result, UserId, db, users::Role};

/// How many rows are read at once.
const PART: i64 = 2_000;

/// What became of a row.
#[derive(Debug, Clone)]
pub struct Reported {
    /// Its place, from 1.
    pub number: i32,
    /// The line that it begins in, from 1.
    pub line: i32,
    /// As it is stored; none: it has not been worked on.
    pub outcome: Option<String>,
    /// The address, where it was one.
    pub email: Option<String>,
    /// The user who was made.
    pub user: Option<UserId>,
    /// What is wrong with the row, where it could not be read.
    pub errors: Option<Value>,
}

/// The next rows of an import of the actor's tenant; none left: it is empty.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NoImport`].
pub async fn report(app: &App, actor: Actor, id: ImportId, after: i32) -> Result<Vec<Reported>> {
    actor.require(Role::Admin)?;
    let mut client = app.db.client().await?;
    let tx = db::as_actor(&mut client, actor, actor.tenant).await?;
    find(&tx, actor.tenant, id).await?;
    let statement = tx
        .prepare_cached(
            "select number, line, outcome, email, user_id, errors from tenantry.user_import_rows
             where tenant_id = $1 and import_id = $2 and number > $3 order by number limit $4",
        )
        .await?;
    let rows = tx.query(&statement, &[&actor.tenant.0, &id.0, &after, &PART]).await?;
    tx.commit().await?;
    let reported = rows.iter().map(|row| {
        Ok::<_, Error>(Reported {
            number: row.try_get("number")?,
            line: row.try_get("line")?,
            outcome: row.try_get("outcome")?,
            email: row.try_get("email")?,
            user: row.try_get::<_, Option<uuid::Uuid>>("user_id")?.map(UserId),
            errors: row.try_get("errors")?,
        })
    });
    reported.collect()
}
