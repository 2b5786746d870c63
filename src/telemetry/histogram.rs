//! A histogram of durations with fixed buckets and a single writer.

use std::time::Duration;

use super::counter::Counter;

/// A histogram with bounds at 100 µs × 2ⁿ up to 104.8576 s and one bucket beyond. With powers of two
/// the bucket index is a count of leading zeros.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [Counter; Self::BOUNDS + 1],
    /// In microseconds. Nanoseconds would wrap within weeks under many long streams.
    sum: Counter,
}

impl Histogram {
    /// The number of finite bounds.
    pub(crate) const BOUNDS: usize = 21;
    const FIRST_BOUND_NANOS: u64 = 100_000;

    pub(crate) fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[Self::bucket(nanos)].add(1);
        self.sum.add((nanos / 500).div_ceil(2));
    }

    /// Adds the observations of `other`.
    pub(crate) fn absorb(&self, other: &Self) {
        for (mine, theirs) in self.buckets.iter().zip(&other.buckets) {
            mine.add(theirs.get());
        }
        self.sum.add(other.sum.get());
    }

    /// Returns the observations per bucket, not cumulative. The last bucket is beyond all bounds.
    pub(crate) fn counts(&self) -> [u64; Self::BOUNDS + 1] {
        std::array::from_fn(|i| self.buckets[i].get())
    }

    /// Returns the sum of all observations in seconds.
    #[expect(clippy::cast_precision_loss, reason = "2^53 µs are 285 years")]
    pub(crate) fn sum_seconds(&self) -> f64 {
        self.sum.get() as f64 / 1e6
    }

    /// Returns the inclusive upper bound of bucket `index` in seconds.
    #[expect(clippy::cast_precision_loss, reason = "at most 104857600, which is exact")]
    pub(crate) fn bound_seconds(index: usize) -> f64 {
        ((Self::FIRST_BOUND_NANOS / 1000) << index) as f64 / 1e6
    }

    fn bucket(nanos: u64) -> usize {
        let steps = nanos.div_ceil(Self::FIRST_BOUND_NANOS);
        let bits = u64::BITS - steps.saturating_sub(1).leading_zeros();
        (bits as usize).min(Self::BOUNDS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bounds_are_inclusive() {
        assert_eq!(Histogram::bucket(0), 0);
        assert_eq!(Histogram::bucket(100_000), 0);
        assert_eq!(Histogram::bucket(100_001), 1);
        assert_eq!(Histogram::bucket(200_000), 1);
        assert_eq!(Histogram::bucket(104_857_600_000), 20);
        assert_eq!(Histogram::bucket(104_857_600_001), 21);
        assert_eq!(Histogram::bucket(u64::MAX), 21);
    }

    #[test]
    fn first_and_last_bound_match_the_docs() {
        assert_eq!(Histogram::bound_seconds(0).to_string(), "0.0001");
        assert_eq!(Histogram::bound_seconds(Histogram::BOUNDS - 1).to_string(), "104.8576");
    }

    #[test]
    fn sum_is_rounded_to_microseconds() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_nanos(1_499));
        histogram.observe(Duration::from_nanos(1_500));
        assert_eq!(histogram.sum.get(), 1 + 2);
        histogram.observe(Duration::MAX);
        assert_eq!(histogram.counts()[Histogram::BOUNDS], 1);
    }

    proptest! {
        #[test]
        fn bucket_contains_values_between_its_bounds(nanos in 0u64..200_000_000_000) {
            let index = Histogram::bucket(nanos);
            let bound = |i: usize| Histogram::FIRST_BOUND_NANOS << i;
            if index < Histogram::BOUNDS {
                prop_assert!(nanos <= bound(index));
            }
            if index > 0 {
                prop_assert!(nanos > bound(index - 1));
            }
        }
    }
}
