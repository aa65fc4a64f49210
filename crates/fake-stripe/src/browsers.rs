//! What browsers are kept from. Somebody who has this fake running visits other sites as well: none of their pages may press
//! its buttons, nor read what it knows under a name of theirs that leads to this machine.

use std::net::IpAddr;

use crate::{
    Shared,
    error::{Error, Result},
    server::Asked,
};

pub(crate) fn admit(shared: &Shared, asked: &Asked) -> Result<()> {
    let host = asked.header("host").unwrap_or_default();
    if shared.loopback && !host.is_empty() && !is_this_machine(host) {
        return Err(Error::foreign("This fake is asked for by its address, or as localhost."));
    }
    // Browsers say whose page it is that posts.
    let origin = asked.header("origin").map(|origin| origin.split_once("://").map_or("", |(_, host)| host));
    if origin.is_some_and(|origin| origin != host) {
        return Err(Error::foreign("Pages of other sites have no business here."));
    }
    Ok(())
}

/// An address, or the name that only ever means this machine.
fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others_are_not_this_machine() {
        for ours in ["127.0.0.1:12111", "localhost", "LOCALHOST:80", "[::1]:80", "[::1]", "127.0.0.1"] {
            assert!(is_this_machine(ours), "{ours}");
        }
        for theirs in ["evil.example:12111", "localhost.evil.example", "127.0.0.1.evil.example:80", "x"] {
            assert!(!is_this_machine(theirs), "{theirs}");
        }
    }
}
