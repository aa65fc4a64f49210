//! A process of the program under test, what stands between it and its servers, and how it errs.

use std::{net::SocketAddr, ops::Deref, path::Path};

use tenantry_cache::planted::Bug;

pub(crate) use crate::harness::send;
use crate::{Result, harness, points::Points, proxy::Proxy};

pub(crate) struct Process {
    process: harness::Process,
    pub(crate) points: Points,
    /// On its way to Redis and to PostgreSQL.
    pub(crate) redis: Proxy,
    pub(crate) postgres: Proxy,
}

/// What a process is made of.
pub(crate) struct Parts<'a> {
    pub(crate) name: String,
    /// `api`, which listens there, or `worker`.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) program: &'a Path,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) logs: &'a Path,
    pub(crate) points: Points,
    pub(crate) redis: Proxy,
    pub(crate) postgres: Proxy,
}

impl Process {
    pub(crate) fn new(parts: Parts<'_>) -> Self {
        let Parts { name, address, program, mut settings, logs, points, redis, postgres } = parts;
        settings.push(("PLANTED_POINTS".into(), points.folder.display().to_string()));
        let command = if address.is_some() { "api" } else { "worker" };
        let process = harness::Process::new(name, command, address, program, settings, logs);
        Self { process, points, redis, postgres }
    }

    /// From the next start on it errs like this.
    pub(crate) fn plant(&self, bug: Option<Bug>) -> Result<()> {
        self.set(bug.map(|bug| ("PLANTED_BUG".into(), format!("{bug:?}"))).into_iter().collect())
    }
}

impl Deref for Process {
    type Target = harness::Process;

    fn deref(&self) -> &harness::Process {
        &self.process
    }
}
