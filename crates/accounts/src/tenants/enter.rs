//! Super administrators in a tenant that is not theirs. What they change says so by itself; that they look does here.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{Actor, App, Result, SessionId, TenantId, audit, db, to_the_end};

/// So long a visit lasts: one event, however much is looked at.
const VISIT: Duration = Duration::from_secs(600);
/// So many visits are remembered. One that was forgotten is noted twice, and that is all.
const MOST: usize = 10_000;

/// The visits that this process has noted lately.
#[derive(Debug, Default)]
pub struct Entries(Mutex<HashMap<(SessionId, TenantId), Instant>>);

impl Entries {
    fn is_noted(&self, visit: (SessionId, TenantId)) -> bool {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.get(&visit).is_some_and(|since| since.elapsed() < VISIT)
    }

    fn note(&self, visit: (SessionId, TenantId)) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() >= MOST {
            noted.retain(|_, since| since.elapsed() < VISIT);
        }
        if noted.len() >= MOST {
            noted.clear();
        }
        noted.insert(visit, Instant::now());
    }
}

/// Tells the tenant's trail of a user who is of another tenant, before they see anything. Programs and operators are none.
///
/// # Errors
/// When it cannot be told, or the actor may no longer act: then nothing is to be shown.
pub async fn enter(app: &App, actor: Actor) -> Result<()> {
    let (tenant, Ok(user)) = (actor.tenant, actor.user()) else { return Ok(()) };
    if actor.home == tenant || app.entries.is_noted((user.session, tenant)) {
        return Ok(());
    }
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, tenant).await?;
        let detail = json!({"session_id": user.session});
        audit::record(&tx, tenant, actor, "tenant.entered", tenant.0, detail).await?;
        tx.commit().await?;
        app.entries.note((user.session, tenant));
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_are_remembered_within_bounds() {
        let entries = Entries::default();
        let visit = || (SessionId::generate(), TenantId::generate());
        let first = visit();
        entries.note(first);
        assert!(entries.is_noted(first) && !entries.is_noted(visit()));
        for _ in 0..3 * MOST {
            entries.note(visit());
        }
        assert!(entries.0.lock().unwrap().len() <= MOST);
    }
}
