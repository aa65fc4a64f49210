//! Whether a token still stands, asked of the rows: for services that would rather ask than verify themselves.

use crate::{App, Result, revocations::Basis};

/// Whether the session of a token goes on, and neither its user nor its tenant has changed since in what the token says.
///
/// # Errors
/// When the database cannot be asked.
pub async fn stands(app: &App, basis: &Basis) -> Result<bool> {
    let client = app.db.client().await?;
    let _asking = tenantry_trace::InDatabase::asking("select tenantry.token_stands");
    let statement = client.prepare_cached("select tenantry.token_stands($1, $2, $3, $4, $5)").await?;
    let Basis { tenant, user, session, user_version, tenant_version } = basis;
    let row =
        client.query_one(&statement, &[&tenant.0, &user.0, &session.0, user_version, tenant_version]).await?;
    Ok(row.try_get(0)?)
}
