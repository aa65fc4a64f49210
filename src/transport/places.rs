//! How many connections there are, in all and of each client.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnet::IpNet;

use super::Settings;
use crate::limits::{bucket, canonical};

pub(super) struct Places {
    all: usize,
    each: usize,
    proxies: Vec<IpNet>,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    /// Clients with connections alone, so there are not more of them than connections.
    by_client: HashMap<u128, usize>,
}

/// A connection's place, given back when it goes.
pub(super) struct Place {
    places: Arc<Places>,
    client: Option<u128>,
}

impl Places {
    pub(super) fn new(settings: &Settings) -> Arc<Self> {
        Arc::new(Self {
            all: settings.connections,
            each: settings.connections_per_address,
            proxies: settings.proxies.clone(),
            taken: Mutex::default(),
        })
    }

    /// A place for a connection from `peer`, if there is one.
    pub(super) fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let peer = canonical(peer);
        let client = (!self.proxies.iter().any(|net| net.contains(&peer))).then(|| bucket(peer));
        let mut taken = self.taken();
        let of_client = client.map_or(0, |client| taken.by_client.get(&client).copied().unwrap_or(0));
        if taken.all >= self.all || client.is_some() && of_client >= self.each {
            let reason = if taken.all >= self.all { "all" } else { "address" };
            drop(taken);
            metrics::counter!("tenantry_connections_refused_total", "reason" => reason).increment(1);
            return None;
        }
        taken.all += 1;
        if let Some(client) = client {
            taken.by_client.insert(client, of_client + 1);
        }
        metrics::gauge!("tenantry_connections").set(taken.all as f64);
        drop(taken);
        Some(Place { places: self.clone(), client })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Nothing panics in between.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        if let Some(client) = self.client
            && let Some(of_client) = taken.by_client.get_mut(&client)
        {
            *of_client -= 1;
            if *of_client == 0 {
                taken.by_client.remove(&client);
            }
        }
        metrics::gauge!("tenantry_connections").set(taken.all as f64);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn places(all: usize, each: usize) -> Arc<Places> {
        Places::new(&Settings {
            header_timeout: Duration::ZERO,
            keep_alive: Duration::ZERO,
            connections: all,
            connections_per_address: each,
            proxies: vec!["10.0.0.0/8".parse().unwrap()],
            tls: None,
            grace: Duration::ZERO,
        })
    }

    fn take(places: &Arc<Places>, peer: &str) -> Option<Place> {
        places.take(peer.parse().unwrap())
    }

    #[test]
    fn a_client_has_so_many_and_gets_another_when_one_goes() {
        let places = places(10, 2);
        let one = take(&places, "192.0.2.1");
        let other = take(&places, "::ffff:192.0.2.1");
        assert!(one.is_some() && other.is_some() && take(&places, "192.0.2.1").is_none());
        assert!(take(&places, "192.0.2.2").is_some());
        drop(one);
        assert!(take(&places, "192.0.2.1").is_some());
        let subscriber =
            [take(&places, "2001:db8::1"), take(&places, "2001:db8::2"), take(&places, "2001:db8::3")];
        assert!(subscriber[1].is_some() && subscriber[2].is_none());
        drop((other, subscriber));
        let taken = places.taken();
        assert_eq!((taken.all, taken.by_client.len()), (0, 0));
    }

    #[test]
    fn there_is_an_end_for_all_and_proxies_are_no_clients() {
        let places = places(3, 1);
        let through: Vec<_> = (0..4).map(|_| take(&places, "10.0.0.1")).collect();
        assert_eq!(through.iter().flatten().count(), 3);
        assert!(take(&places, "192.0.2.1").is_none());
    }
}
