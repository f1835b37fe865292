//! How often a status is written that nobody waits for: seldom where the API server is slow or many objects are active, since then
//! there is most to do for it. Pure.

use std::time::{Duration, Instant};

/// At least this long between two writes.
const LEAST: Duration = Duration::from_millis(200);
/// Writes of one object take at most this share of the time.
const SHARE: u32 = 100;
/// But nobody waits longer than this to see how an object goes on...
const MOST: Duration = Duration::from_secs(5);
/// ...unless very many are active: all together they are written this often.
const OF_ALL: Duration = Duration::from_millis(50);
/// And then nobody waits longer than this.
const MOST_OF_MANY: Duration = Duration::from_secs(10);

/// The last write of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    ended: Instant,
    rest: Duration,
}

impl Pace {
    /// A write that began then and has ended now, while so many objects are active.
    pub(crate) fn after(began: Instant, ended: Instant, active: usize) -> Self {
        let of_one = (ended.duration_since(began) * SHARE).clamp(LEAST, MOST);
        let of_all = OF_ALL.saturating_mul(u32::try_from(active).unwrap_or(u32::MAX)).min(MOST_OF_MANY);
        Self { ended, rest: of_one.max(of_all) }
    }

    /// How long until the next one; `None` when it may be now.
    pub(crate) fn rest(self, now: Instant) -> Option<Duration> {
        self.rest.checked_sub(now.duration_since(self.ended)).filter(|rest| !rest.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_a_write_the_longer_the_rest() {
        let began = Instant::now();
        for (took, rest) in [(0, 200), (2, 200), (5, 500), (30, 3000), (50, 5000), (9000, 5000)] {
            let ended = began + Duration::from_millis(took);
            let pace = Pace::after(began, ended, 1);
            assert_eq!(pace.rest(ended), Some(Duration::from_millis(rest)), "{took}");
            assert_eq!(pace.rest(ended + Duration::from_millis(rest - 1)), Some(Duration::from_millis(1)));
            assert_eq!(pace.rest(ended + Duration::from_millis(rest)), None);
        }
    }

    #[test]
    fn the_more_are_active_the_longer_the_rest() {
        let now = Instant::now();
        for (active, rest) in [(0, 200), (4, 200), (5, 250), (50, 2500), (200, 10_000), (100_000, 10_000)] {
            assert_eq!(Pace::after(now, now, active).rest(now), Some(Duration::from_millis(rest)), "{active}");
        }
    }
}
