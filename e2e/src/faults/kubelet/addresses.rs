//! Ranks of a training find each other by the names of their Pods, each of which has an address of its own. Here it has one of this
//! machine's: all of 127.0.0.0/8 is there, and a runner whose host is an address listens at that one alone.

use anyhow::{Result, ensure};
use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};
use step_protocol::RankSpec;

/// Tries to find addresses that nobody uses: other processes of this machine may run ranks, too.
const TRIES: u16 = 1000;

/// The addresses of all attempts of a case's jobs.
#[derive(Default)]
pub(super) struct Addresses(Mutex<HashMap<String, Vec<String>>>);

impl Addresses {
    /// The addresses of all ranks of the attempt that this is one of, in their order. Those of another attempt are others.
    ///
    /// # Errors
    /// When none are free.
    pub(super) fn of(&self, rank: &RankSpec) -> Result<Vec<String>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hosts) = known.get(&rank.rendezvous_id) {
            return Ok(hosts.clone());
        }
        let hosts = free(rank.hosts.len(), rank.gate_port)?;
        known.insert(rank.rendezvous_id.clone(), hosts.clone());
        Ok(hosts)
    }
}

/// So many addresses at which nobody listens on this port.
fn free(count: usize, port: u16) -> Result<Vec<String>> {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    // Other processes begin in other networks.
    let network = u8::try_from(20 + std::process::id() % 200)?;
    for _ in 0..TRIES {
        let step = u16::try_from(count)?;
        let first = NEXT.fetch_add(step, Ordering::Relaxed);
        if first.checked_add(step).is_none() {
            continue;
        }
        let addresses: Vec<Ipv4Addr> = (first..first + step)
            .map(|number| {
                let [high, low] = number.to_be_bytes();
                Ipv4Addr::new(127, network, high, low)
            })
            .collect();
        if addresses.iter().all(|address| TcpListener::bind((*address, port)).is_ok()) {
            return Ok(addresses.iter().map(Ipv4Addr::to_string).collect());
        }
    }
    ensure!(false, "no addresses are free in 127.{network}.0.0/16 at port {port}");
    Ok(Vec::new())
}
