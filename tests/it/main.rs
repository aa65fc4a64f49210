//! The tests of the whole, through the front door, on real servers: run them with `make test`.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod app;
mod auth;
mod cache;
mod cli;
mod dev;
mod http;
mod mails;
mod sessions;
mod tenants;
mod users;
mod walls;
