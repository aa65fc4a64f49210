//! The protocol of the cache as state machines, explored exhaustively: whatever the order of steps, whatever dies.
//!
//! Steps bear the names of the functions they stand for. Each model runs as it is, where it must keep its invariants,
//! and with bugs planted in it, each of which it must catch by the name of the invariant. `docs/cache-model.md` tells
//! what is modelled and what is not.
//!
//! `#[cfg(test)]` says nothing new to the compiler here, but tells clippy that these helpers may unwrap.

#[cfg(test)]
mod explorer;
#[cfg(test)]
mod feed;
#[cfg(test)]
mod l1_and_flights;
#[cfg(test)]
mod l2;
#[cfg(test)]
mod lua;
#[cfg(test)]
mod min_version;
#[cfg(test)]
mod redis;
#[cfg(test)]
mod restart_and_epoch;
