//! Connections from whoever reaches the port: each has a bounded time and place until it has shown the key.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

/// Connections that have not shown the key, at the same time: of all, and of one address. Others wait or are closed.
const ALL: usize = 256;
const OF_ONE: usize = 8;

/// A place among those that have not shown the key: to be dropped when they have.
#[derive(Debug)]
pub(super) struct Stranger {
    _of_all: OwnedSemaphorePermit,
    _of_one: OfOne,
}

type Counts = Arc<Mutex<HashMap<IpAddr, usize>>>;

#[derive(Debug)]
struct OfOne {
    counts: Counts,
    address: IpAddr,
}

impl OfOne {
    fn admit(counts: &Counts, address: IpAddr) -> Option<Self> {
        let mut all = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(address).or_default();
        if *count >= OF_ONE {
            return None;
        }
        *count += 1;
        drop(all);
        Some(Self { counts: counts.clone(), address })
    }
}

impl Drop for OfOne {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// Accepts for ever; each connection is `handle`d in a task of its own, and all of them end when this is dropped.
pub(super) async fn accept<F>(listener: TcpListener, handle: impl Fn(TcpStream, Stranger) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let room = Arc::new(Semaphore::new(ALL));
    let counts = Counts::default();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(of_all) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, address)) => {
                if let Some(of_one) = OfOne::admit(&counts, address.ip()) {
                    connections.spawn(handle(stream, Stranger { _of_all: of_all, _of_one: of_one }));
                }
            }
            // Out of descriptors, or the peer is gone already.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_few_places_and_gets_them_back() {
        let counts = Counts::default();
        let (one, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut places: Vec<_> = (0..OF_ONE).map(|_| OfOne::admit(&counts, one).unwrap()).collect();
        assert!(OfOne::admit(&counts, one).is_none());
        assert!(OfOne::admit(&counts, other).is_some());
        places.pop();
        places.push(OfOne::admit(&counts, one).unwrap());
        drop(places);
        assert!(counts.lock().unwrap().is_empty());
    }
}
