//! Time in the database, and what was asked there.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use crate::{CURRENT, Kind, Span, Value};

/// How long the summary of a transaction may become, in bytes.
const SUMMARY: usize = 255;
const KEY: &str = "db.query.summary";

/// This task is in the database until the value goes.
#[must_use]
pub struct InDatabase {
    since: Instant,
    span: Span,
}

impl InDatabase {
    /// From now on; for those who wait for a connection.
    pub fn waiting() -> Self {
        Self { since: Instant::now(), span: Span::default() }
    }

    /// From now on, as a span of its own: a statement or a transaction.
    pub fn begin() -> Self {
        Self { since: Instant::now(), span: Span::postgres() }
    }

    /// The same with one statement.
    pub fn asking(sql: &str) -> Self {
        let mut asking = Self::begin();
        asking.span.asks(sql);
        asking
    }

    /// Its span.
    pub fn span(&mut self) -> &mut Span {
        &mut self.span
    }
}

impl Drop for InDatabase {
    fn drop(&mut self) {
        let spent = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        // Outside of any work nobody asks.
        let _ = CURRENT.try_with(|work| work.0.in_database.fetch_add(spent, Relaxed));
    }
}

impl Span {
    fn postgres() -> Self {
        let mut span = Self::child(Kind::Client, "transaction");
        span.set("db.system.name", "postgresql");
        span
    }

    /// It asks the database this, too. What it asks first is its name.
    pub fn asks(&mut self, sql: &str) {
        let Some(span) = self.recorded() else { return };
        let Some(asked) = summary(sql) else { return };
        let summary = span.attributes.iter_mut().find(|(key, _)| *key == KEY);
        if let Some((_, Value::Text(summary))) = summary {
            if summary.len() + 2 + asked.len() <= SUMMARY && !summary.ends_with(&asked) {
                let summary = summary.to_mut();
                summary.push_str("; ");
                summary.push_str(&asked);
            }
        } else {
            span.name = asked.clone().into();
            span.set(KEY, asked);
        }
    }
}

/// What a statement does to what: its first word and the first name in our schema. Nothing else of it is told, so no value is.
fn summary(sql: &str) -> Option<String> {
    const SCHEMA: &str = "tenantry.";
    let verb = sql.split(|c: char| !c.is_ascii_alphabetic()).find(|word| !word.is_empty())?;
    let Some(at) = sql.find(SCHEMA) else { return Some(verb.to_owned()) };
    let name = &sql[at + SCHEMA.len()..];
    let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
    Some(format!("{verb} {}", &name[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_what_is_done_to_what() {
        for (sql, told) in [
            ("select id, email from tenantry.users where tenant_id = $1", "select users"),
            ("select tenantry.enqueue_job(kind => $1)", "select enqueue_job"),
            ("\n  update tenantry.users set name = 'tenantry.secret'", "update users"),
            ("insert into tenantry.audit_events(id) values ($1)", "insert audit_events"),
            ("select 'x@example.org'", "select"),
            ("with gone as (delete from tenantry.users returning 1) select 1", "with users"),
        ] {
            assert_eq!(summary(sql).as_deref(), Some(told));
        }
        assert_eq!(summary("  "), None);
    }
}
