//! Decides whether memory is flat.

use std::time::Duration;

/// Resource usage of the proxy at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Time since the load started.
    pub at: Duration,
    /// Resident set, in bytes.
    pub resident: u64,
    /// Open file descriptors.
    pub descriptors: usize,
    /// Bindings in the table.
    pub entries: u64,
    /// Open tunnels.
    pub tunnels: u64,
}

/// Growth that counts as noise: a share of the resident set or a number of bytes, whichever
/// is more.
const NOISE_SHARE: f64 = 0.03;
const NOISE_BYTES: f64 = 512.0 * 1024.0;

/// Maximum rise from allocator steps: a share of the resident set or a number of bytes,
/// whichever is more.
const STEP_SHARE: f64 = 0.15;
const STEP_BYTES: f64 = 4.0 * 1024.0 * 1024.0;

/// The trend of the resident set after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// Growth in bytes per hour.
    pub per_hour: f64,
    /// Growth in bytes over the measured time.
    pub grown: f64,
    /// Growth in bytes that counts as noise.
    pub noise: f64,
    /// True if memory grows in both halves of the measured time.
    pub steady: bool,
    /// Rise in bytes from the median of the first quarter to the median of the last.
    pub risen: f64,
    /// Maximum rise in bytes from allocator steps.
    pub step: f64,
}

impl Trend {
    /// Computes the trend as the median of the slopes between all pairs of samples (the
    /// Theil–Sen estimator), which is robust against outliers. Returns `None` for fewer than
    /// six samples.
    pub fn of(samples: &[Sample]) -> Option<Self> {
        if samples.len() < 6 {
            return None;
        }
        let usual = middle(samples);
        let noise = (usual * NOISE_SHARE).max(NOISE_BYTES);
        let quarter = samples.len().div_ceil(4);
        let (first, last) = (middle(&samples[..quarter]), middle(&samples[samples.len() - quarter..]));
        let step = (first * STEP_SHARE).max(STEP_BYTES);
        let (slope, grown) = growth(samples);
        let (early, late) = samples.split_at(samples.len() / 2);
        let steady = [early, late].iter().all(|half| growth(half).1 > noise / 4.0);
        Some(Self { per_hour: slope * 3600.0, grown, noise, steady, risen: last - first, step })
    }

    /// Returns true if the growth is noise or an allocator step. A leak keeps growing, or
    /// exceeds a step.
    pub fn is_flat(&self) -> bool {
        self.risen <= self.step && (self.grown <= self.noise || !self.steady)
    }
}

/// Returns the median of the resident set.
fn middle(samples: &[Sample]) -> f64 {
    let mut sizes: Vec<u64> = samples.iter().map(|sample| sample.resident).collect();
    sizes.sort_unstable();
    float(sizes[sizes.len() / 2])
}

/// Returns the growth in bytes per second, and in bytes over the whole time.
fn growth(samples: &[Sample]) -> (f64, f64) {
    let mut slopes = vec![];
    for (index, one) in samples.iter().enumerate() {
        for other in &samples[index + 1..] {
            let time = other.at.saturating_sub(one.at).as_secs_f64();
            slopes.push((float(other.resident) - float(one.resident)) / time);
        }
    }
    slopes.sort_by(f64::total_cmp);
    let slope = slopes.get(slopes.len() / 2).copied().unwrap_or_default();
    let time = samples.last().zip(samples.first()).map(|(last, first)| last.at.saturating_sub(first.at));
    (slope, slope * time.unwrap_or_default().as_secs_f64())
}

#[expect(clippy::cast_precision_loss, reason = "memory sizes are far below 2^52")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(resident: impl Fn(u64) -> u64) -> Vec<Sample> {
        let sample = |n| Sample {
            at: Duration::from_secs(10 * n),
            resident: resident(n),
            descriptors: 0,
            entries: 0,
            tunnels: 0,
        };
        (0..60).map(sample).collect()
    }

    #[test]
    fn leak_is_detected_and_noise_is_not() {
        let leak = Trend::of(&samples(|n| 20_000_000 + n * 40_000 + n % 7 * 100_000)).unwrap();
        assert!(!leak.is_flat() && leak.per_hour > 10_000_000.0, "{leak:?}");
        let noise = Trend::of(&samples(|n| 20_000_000 + n % 7 * 100_000)).unwrap();
        assert!(noise.is_flat(), "{noise:?}");
        let peak = Trend::of(&samples(|n| if n > 55 { 30_000_000 } else { 20_000_000 })).unwrap();
        assert!(peak.is_flat(), "{peak:?}");
        let step = Trend::of(&samples(|n| if n > 20 { 22_000_000 } else { 20_000_000 } + n % 7 * 10_000));
        assert!(step.unwrap().is_flat(), "{step:?}");
        assert_eq!(Trend::of(&samples(|n| n)[..5]), None);
    }

    #[test]
    fn allocator_step_is_allowed_up_to_its_limit() {
        for at in [16, 30, 50] {
            let step =
                |by: u64| Trend::of(&samples(|n| if n > at { 20_000_000 + by } else { 20_000_000 })).unwrap();
            assert!(step(4_000_000).is_flat(), "{at}");
            assert!(!step(4_400_000).is_flat(), "{at}");
        }
        let large = Trend::of(&samples(|n| if n > 30 { 110_000_000 } else { 100_000_000 })).unwrap();
        assert!(large.is_flat(), "{large:?}");
    }
}
