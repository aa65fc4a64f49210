//! The embedded default: a private PostgreSQL and a private Redis of our own.

mod binaries;
mod error;
mod home;
pub mod postgres;
mod process;
pub mod redis;
mod user;

pub use error::ServerError;
pub use home::Home;
pub use process::{Server, signal};
