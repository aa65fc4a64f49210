//! A tenant may be named by its slug and by its id: attempts that name it in either way are counted together.

use std::time::{Duration, Instant};

use tenantry_accounts::{App, Error, tenants};
use uuid::Uuid;

/// How many names a process remembers of tenants that there are, and as many of none; and for how long. Both, or an answer that
/// takes longer would tell which are; apart, or whoever makes names up would have us ask for those of others again.
const REMEMBERED: usize = 10_000;
const FOR: Duration = Duration::from_secs(60);
/// The longest slug; what is longer names nobody.
const LONGEST: usize = 100;

/// Slugs, and the ids of their tenants.
pub(super) struct Spelling {
    known: quick_cache::sync::Cache<Box<str>, (String, Instant)>,
    /// Of no tenant, and since when.
    unknown: quick_cache::sync::Cache<Box<str>, Instant>,
}

impl Spelling {
    pub(super) fn new() -> Self {
        Self {
            known: quick_cache::sync::Cache::new(REMEMBERED),
            unknown: quick_cache::sync::Cache::new(REMEMBERED),
        }
    }

    /// The one name that is counted for a tenant: its id, or what was written where there is no such tenant.
    pub(super) async fn of(&self, app: &App, reference: &str) -> Result<String, Error> {
        if let Ok(id) = Uuid::try_parse(reference) {
            return Ok(id.to_string());
        }
        if reference.len() > LONGEST {
            return Ok(reference.to_owned());
        }
        if let Some((name, _)) = self.known.get(reference).filter(|(_, read)| read.elapsed() < FOR) {
            return Ok(name);
        }
        if self.unknown.get(reference).is_some_and(|read| read.elapsed() < FOR) {
            return Ok(reference.to_owned());
        }
        let read = Instant::now();
        match tenants::find(app, reference).await {
            Ok(id) => {
                let name = id.to_string();
                self.known.insert(reference.into(), (name.clone(), read));
                Ok(name)
            }
            Err(Error::NoTenant) => {
                self.unknown.insert(reference.into(), read);
                Ok(reference.to_owned())
            }
            Err(error) => Err(error),
        }
    }
}
