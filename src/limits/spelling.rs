//! A tenant may be named by its slug and by its id: attempts that name it in either way are counted together.

use std::time::{Duration, Instant};

use tenantry_accounts::{App, Error, tenants};
use uuid::Uuid;

/// How many names a process remembers, and for how long: known or not, or an answer that takes longer would tell which are.
const REMEMBERED: usize = 10_000;
const FOR: Duration = Duration::from_secs(60);
/// The longest slug; what is longer names nobody.
const LONGEST: usize = 100;

/// Slugs, and the ids of their tenants.
pub(super) struct Spelling(quick_cache::sync::Cache<Box<str>, (String, Instant)>);

impl Spelling {
    pub(super) fn new() -> Self {
        Self(quick_cache::sync::Cache::new(REMEMBERED))
    }

    /// The one name that is counted for a tenant: its id, or what was written where there is no such tenant.
    pub(super) async fn of(&self, app: &App, reference: &str) -> Result<String, Error> {
        if let Ok(id) = Uuid::try_parse(reference) {
            return Ok(id.to_string());
        }
        if reference.len() > LONGEST {
            return Ok(reference.to_owned());
        }
        if let Some((name, _)) = self.0.get(reference).filter(|(_, read)| read.elapsed() < FOR) {
            return Ok(name);
        }
        let read = Instant::now();
        let name = match tenants::find(app, reference).await {
            Ok(id) => id.to_string(),
            Err(Error::NoTenant) => reference.to_owned(),
            Err(error) => return Err(error),
        };
        self.0.insert(reference.into(), (name.clone(), read));
        Ok(name)
    }
}
