//! Stripe as we need it: what it sends, whether it was Stripe, and the few calls that we make. It knows nothing of tenants.
//!
//! Written by hand instead of taken from a generated client: that is 300,000 lines, tied to one version of the API, and refuses
//! what it does not know. Here, what is not known is kept (`raw`) and never a reason to fail.
#![warn(missing_docs)]

#[cfg(feature = "client")]
mod client;
mod event;
#[cfg(any(test, feature = "laws"))]
#[doc(hidden)]
pub mod laws;
mod signature;
mod subscription;

#[cfg(feature = "client")]
pub use client::{
    Checkout, Client, Dated, Error, Fault, Listed, Listing, NewCustomer, Page, Place, Price, Settings,
    Standing,
};
pub use event::Event;
pub use signature::{NotStripe, Secrets, TOLERANCE};
pub use subscription::{Item, Status, Subscription};

/// The version of the API that all of this is written for.
pub const API_VERSION: &str = "2025-09-30.clover";

/// The id of something that may be expanded: `"cus_1"` or `{"id": "cus_1", ...}`.
fn id_of(value: &serde_json::Value) -> Option<String> {
    value.as_str().or_else(|| value["id"].as_str()).map(str::to_owned)
}
