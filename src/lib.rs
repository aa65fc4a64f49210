//! Tenantry: the front door. HTTP in, HTTP out, and the command line; what it serves is in `tenantry_accounts`.

mod access_token;
mod api;
mod api_key;
mod caller;
mod clock;
pub mod commands;
pub mod config;
pub mod dev;
mod digits;
mod encryption_keys;
mod error;
mod imports;
mod key_files;
mod keys;
#[cfg(any(test, feature = "laws"))]
#[doc(hidden)]
pub mod laws;
mod layers;
mod limits;
mod log;
pub mod migrate;
pub mod openapi;
mod operations;
pub mod server;
pub mod state;
pub mod transport;
mod weighted;
