//! The protocol against a real Redis; each test starts its own. Postgres is played by [`stage::Truth`].
//!
//! `#[cfg(test)]` says nothing new to the compiler here, but tells clippy that these helpers may unwrap.

#[cfg(test)]
mod absences;
#[cfg(test)]
mod batches;
#[cfg(test)]
mod breaker;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod cluster_server;
#[cfg(test)]
mod epochs;
#[cfg(test)]
mod flights;
#[cfg(test)]
mod inspections;
#[cfg(test)]
mod logins;
#[cfg(test)]
mod lookups;
#[cfg(test)]
mod many;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod reads;
#[cfg(test)]
mod runs;
#[cfg(test)]
mod stage;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod trouble;
#[cfg(test)]
mod writes;
