//! Addresses for processes under test.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use rand::Rng;

/// One that nobody listens on, below the ports that the kernel gives to connections: or one of those might take it before the process
/// does, or while that is dead.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    for _ in 0..1000 {
        let address = SocketAddr::from(([127, 0, 0, 1], rand::rng().random_range(15_000..30_000)));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(io::Error::other("no free port"))
}
