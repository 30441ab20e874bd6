//! Where connections leave from: the local addresses this agent may use, and how many of their ports
//! are promised towards each destination.
//!
//! A port is taken per (source, destination), so that is what is counted, over all runs of this
//! agent. Running out in the middle of a run would look like a fault of the target; so it is found
//! out here, before anything is sent. Invariant: what is promised comes back when the run is over.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_service_kit::limits;

/// From where (`None`: the kernel's choice) to where.
pub(crate) type Path = (SocketAddr, Option<IpAddr>);

type Counts = BTreeMap<Path, u64>;

/// The local addresses of this agent, shared by all its runs.
#[derive(Debug, Clone)]
pub struct SourceAddresses {
    addrs: Arc<[IpAddr]>,
    ports: u64,
    promised: Arc<Mutex<Counts>>,
}

#[derive(Debug, thiserror::Error)]
#[error("source address {addr} is not one of this machine: {why}; `ip addr` lists those that are")]
pub struct NotLocal {
    pub addr: IpAddr,
    pub why: std::io::Error,
}

/// One source has fewer free ports towards one destination than its devices need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted {
    pub destination: SocketAddr,
    pub source: Option<IpAddr>,
    pub needed: u64,
    /// Of all runs of this agent.
    pub promised: u64,
    pub ports: u64,
}

/// Ports promised to a run; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    counts: Counts,
    promised: Arc<Mutex<Counts>>,
}

impl Default for SourceAddresses {
    /// The kernel chooses the source.
    fn default() -> Self {
        Self::with_ports(Vec::new(), u64::from(limits::ephemeral_ports()))
    }
}

impl SourceAddresses {
    /// Each must be an address of this machine.
    pub fn new(addrs: Vec<IpAddr>) -> Result<Self, NotLocal> {
        for addr in &addrs {
            UdpSocket::bind((*addr, 0)).map_err(|why| NotLocal { addr: *addr, why })?;
        }
        Ok(Self::with_ports(addrs, u64::from(limits::ephemeral_ports())))
    }

    pub(crate) fn with_ports(addrs: Vec<IpAddr>, ports: u64) -> Self {
        Self { addrs: addrs.into(), ports, promised: Arc::default() }
    }

    /// Ports towards one destination.
    pub fn ports(&self) -> u64 {
        self.ports * self.addrs.len().max(1) as u64
    }

    /// Those that can reach `destination`, in the order in which devices take them.
    pub(crate) fn towards(&self, destination: SocketAddr) -> Vec<IpAddr> {
        let fits = |addr: &&IpAddr| addr.is_ipv4() == destination.is_ipv4();
        self.addrs.iter().filter(fits).copied().collect()
    }

    /// Promises one port for each of `paths`, or says where they do not suffice.
    pub(crate) fn reserve(
        &self,
        paths: impl Iterator<Item = Path>,
    ) -> Result<Reservation, Exhausted> {
        let mut counts = Counts::new();
        for path in paths {
            *counts.entry(path).or_default() += 1;
        }
        let mut all = lock(&self.promised);
        for (path, needed) in &counts {
            let promised = all.get(path).copied().unwrap_or(0);
            if needed + promised > self.ports {
                let ((destination, source), needed, ports) = (*path, *needed, self.ports);
                return Err(Exhausted { destination, source, needed, promised, ports });
            }
        }
        for (path, needed) in &counts {
            *all.entry(*path).or_default() += needed;
        }
        drop(all);
        Ok(Reservation { counts, promised: Arc::clone(&self.promised) })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut all = lock(&self.promised);
        for (path, n) in &self.counts {
            if let Some(promised) = all.get_mut(path) {
                *promised = promised.saturating_sub(*n);
            }
        }
        all.retain(|_, promised| *promised > 0);
    }
}

/// Counts stay true whoever panicked while they were locked.
fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ports_are_counted_per_source_and_destination_over_all_runs() {
        let sources = SourceAddresses::with_ports(vec![], 10);
        let (a, b) = ((addr("10.0.0.1:1883"), None), (addr("10.0.0.1:8883"), None));
        let first = sources.reserve([a; 8].into_iter().chain([b; 10])).unwrap();
        let refused = sources.reserve([a; 3].into_iter()).unwrap_err();
        assert_eq!((refused.needed, refused.promised, refused.ports), (3, 8, 10));
        let second = sources.reserve([a; 2].into_iter()).unwrap();
        drop(first);
        drop(second);
        assert!(lock(&sources.promised).is_empty());
        sources.reserve([a; 10].into_iter()).unwrap();
    }

    #[test]
    fn a_refused_reservation_takes_nothing() {
        let sources = SourceAddresses::with_ports(vec![], 1);
        let (a, b) = ((addr("10.0.0.1:1"), None), (addr("10.0.0.1:2"), None));
        assert!(sources.reserve([a, b, b].into_iter()).is_err());
        sources.reserve([a, b].into_iter()).unwrap();
    }

    #[test]
    fn an_address_of_another_machine_is_refused_by_name() {
        SourceAddresses::new(vec!["127.0.0.3".parse().unwrap()]).unwrap();
        let error = SourceAddresses::new(vec!["192.0.2.7".parse().unwrap()]).unwrap_err();
        assert!(error.to_string().starts_with("source address 192.0.2.7 is not"), "{error}");
    }

    #[test]
    fn only_addresses_of_the_destination_s_family_are_used() {
        let both = vec!["::1".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        let sources = SourceAddresses::with_ports(both, 10);
        assert_eq!(sources.towards(addr("127.0.0.1:1")), ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(sources.ports(), 20);
    }
}
