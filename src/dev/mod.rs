//! The embedded default: a private PostgreSQL, a private Redis and a fake Stripe of our own.

mod binaries;
mod error;
mod home;
pub mod postgres;
mod process;
pub mod redis;
pub mod stripe;
mod user;

pub use error::ServerError;
pub use home::Home;
pub use process::{Server, signal};
