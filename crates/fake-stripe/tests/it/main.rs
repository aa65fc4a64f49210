//! The fake at the wire: what it answers, sends and does with time, and what Stripe's own libraries say to it.

#![expect(clippy::unwrap_used, reason = "a surprise here fails the test, as it should")]

mod course;
mod pages;
mod sdks;
mod stage;
mod store;
mod webhooks;
mod wire;
