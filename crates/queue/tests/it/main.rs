//! The queue against a real PostgreSQL, which `make test` starts. A test has a database of its own, and nothing sleeps: tests wait
//! for what they mean, and move a job's times in the table.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod admin;
mod attempts;
mod database;
mod enqueue;
mod fairness;
mod handlers;
mod leases;
mod nudges;
mod sql;
mod suspects;
mod upkeep;
mod workers;
