//! Medians with an interval, and percentiles. Pure.

/// The median of some samples, and between which of them the true median lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The median.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// How many samples there were.
    pub n: usize,
}

/// How sure the interval of a [`Summary`] is to hold the true median, where there are samples enough.
pub const CONFIDENCE: f64 = 0.95;

/// The median of `samples` with an interval that assumes nothing of how they are spread: from the k-th smallest to the k-th
/// largest, with the largest k for which the chance that the true median lies between them is 95 %. Up to five samples are too
/// few for that: then it is all of them. `None` without samples.
#[must_use]
pub fn summary(samples: &[f64]) -> Option<Summary> {
    let sorted = sorted(samples);
    let n = sorted.len();
    let low = outside(n).unwrap_or(0);
    Some(Summary { value: middle(&sorted)?, low: *sorted.get(low)?, high: *sorted.get(n.checked_sub(low + 1)?)?, n })
}

/// The value that `share` (0 to 1) of the samples do not exceed, by nearest rank. `None` without samples.
#[must_use]
pub fn percentile(samples: &[f64], share: f64) -> Option<f64> {
    let sorted = sorted(samples);
    let rank = (0..sorted.len()).find(|rank| count(rank + 1) >= share * count(sorted.len()))?;
    sorted.get(rank).copied()
}

/// The median alone.
#[must_use]
pub fn median(samples: &[f64]) -> Option<f64> {
    middle(&sorted(samples))
}

/// A number of things as a number to reckon with.
#[expect(clippy::cast_precision_loss, reason = "counts of stages, Pods and bytes stay far below 2^52")]
#[must_use]
pub fn count(things: usize) -> f64 {
    things as f64
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

fn middle(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// How many samples may be left out at each end: the true median is below the k-th smallest of n with the chance that fewer
/// than k of n fair coins show heads.
fn outside(n: usize) -> Option<usize> {
    let mut term = 0.5_f64.powi(i32::try_from(n).ok()?);
    let mut below = 0.0;
    let mut left_out = None;
    for k in 0..n / 2 {
        below += term;
        if 2.0 * below > 1.0 - CONFIDENCE {
            break;
        }
        left_out = Some(k);
        term *= count(n - k) / count(k + 1);
    }
    left_out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: u32) -> Vec<f64> {
        (1..=n).rev().map(f64::from).collect()
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn five_samples_have_their_whole_range_as_interval() {
        let summary = summary(&numbers(5)).unwrap();
        assert_eq!((summary.value, summary.low, summary.high, summary.n), (3.0, 1.0, 5.0, 5));
    }

    /// The ranks of the usual tables of the distribution-free interval of a median.
    #[test]
    fn more_samples_have_the_ranks_of_the_tables() {
        for (n, low, high) in [(6, 1.0, 6.0), (9, 2.0, 8.0), (20, 6.0, 15.0), (100, 40.0, 61.0)] {
            let summary = summary(&numbers(n)).unwrap();
            assert_eq!((summary.low, summary.high), (low, high), "{n}");
        }
    }

    #[test]
    fn percentiles_are_samples() {
        let samples = numbers(99);
        assert_eq!(percentile(&samples, 0.5), Some(50.0));
        assert_eq!(percentile(&samples, 0.99), Some(99.0));
        assert_eq!(percentile(&samples, 0.0), Some(1.0));
        assert_eq!(percentile(&[7.0], 0.99), Some(7.0));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
