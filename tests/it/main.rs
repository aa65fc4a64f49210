//! The tests of the whole, through the front door, on real servers: run them with `make test`.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod api_keys;
mod app;
mod audit;
mod auth;
mod billing;
mod bulk;
mod cache;
mod cli;
#[path = "../../crates/cache/tests/it/cluster_server.rs"]
#[expect(dead_code, reason = "the tests of the cache use the rest")]
mod cluster_server;
mod conditions;
mod deleted;
mod deploy;
mod dev;
mod docs;
mod document;
mod edges;
mod enumeration;
mod errors;
mod examples;
mod export;
mod feed;
mod files;
mod flood;
mod http;
mod imports;
mod inspect;
mod jobs;
mod keys;
mod limits;
mod lists;
mod look_up;
mod mail_server;
mod mails;
mod metadata;
mod node;
mod operators;
mod otel;
mod passwords;
#[path = "../harness/port.rs"]
mod port;
mod primary;
mod privacy;
mod projects;
mod retries;
mod revocation;
mod sdks;
mod seats;
mod second_factor;
mod sessions;
mod stats;
mod steady;
mod tenants;
mod timing;
mod trace;
mod transport;
mod trips;
#[path = "../harness/turns.rs"]
mod turns;
mod users;
mod walls;
