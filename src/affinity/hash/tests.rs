//! Golden values, and the independence of points.

#![expect(clippy::cast_precision_loss, reason = "statistics")]

use super::*;

fn id(text: &str) -> BackendId {
    text.parse().unwrap()
}

fn unit(hash: u64) -> f64 {
    hash as f64 / 2f64.powi(64)
}

/// The Kolmogorov–Smirnov statistic: the greatest distance between the sample and the distribution
/// `cdf`, times √n. It is above 1.95 for one in a thousand samples.
fn kolmogorov_smirnov(mut sample: Vec<f64>, cdf: impl Fn(f64) -> f64) -> f64 {
    sample.sort_by(f64::total_cmp);
    let n = sample.len() as f64;
    let distance = |(i, &x): (usize, &f64)| {
        let (expected, seen) = (cdf(x), i as f64 / n);
        (expected - seen).abs().max((expected - seen - 1.0 / n).abs())
    };
    sample.iter().enumerate().map(distance).fold(0.0, f64::max) * n.sqrt()
}

#[test]
fn hashes_are_the_same_on_every_machine() {
    let seed = Seed(0x0123_4567_89ab_cdef);
    let hashes = [
        KeyHash::of_id(seed, b"4711").0,
        KeyHash::of_address(seed, *b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x01").0,
        point_hash(seed, &id("node1"), 0),
        point_hash(seed, &id("node1"), 1023),
    ];
    assert_eq!(
        hashes.map(|hash| format!("{hash:016x}")),
        ["78784f8cafee0c5a", "3d36159b10c1efc3", "d0182d929825cd18", "48d26b7ca685c355"]
    );
}

#[test]
fn roles_are_separated() {
    let seed = Seed(1);
    let address = [b'x'; 16];
    assert_ne!(KeyHash::of_id(seed, &address), KeyHash::of_address(seed, address));
    // A session id with the same bytes as a point's message hashes differently.
    assert_ne!(KeyHash::of_id(seed, b"\x05node1\0\0\0\0").0, point_hash(seed, &id("node1"), 0));
}

#[test]
fn id_and_replica_are_encoded_uniquely() {
    // Without the length prefix, "a" with the right replica would collide with "ab".
    let replica = u32::from_le_bytes(*b"b\0\0\0");
    assert_ne!(point_hash(Seed(1), &id("a"), replica), point_hash(Seed(1), &id("ab"), 0));
}

#[test]
fn points_of_one_backend_look_independent() {
    for (seed, text) in [(0, "node1"), (1, "node2"), (7, "10.0.1.11:8080"), (u64::MAX, &"x".repeat(64))] {
        let mut points: Vec<f64> = (0..4096).map(|r| unit(point_hash(Seed(seed), &id(text), r))).collect();
        let uniform = kolmogorov_smirnov(points.clone(), |x| x);
        assert!(uniform < 1.95, "{text}: positions {uniform}");

        // The gaps between independent points are exponentially distributed.
        points.sort_by(f64::total_cmp);
        let gaps = points.windows(2).map(|w| (w[1] - w[0]) * 4096.0).collect();
        let exponential = kolmogorov_smirnov(gaps, |x| 1.0 - (-x).exp());
        assert!(exponential < 1.95, "{text}: gaps {exponential}");

        // One replica does not predict the next.
        let steps = (0..4095).map(|r| {
            let step =
                point_hash(Seed(seed), &id(text), r + 1).wrapping_sub(point_hash(Seed(seed), &id(text), r));
            unit(step)
        });
        let steps = kolmogorov_smirnov(steps.collect(), |x| x);
        assert!(steps < 1.95, "{text}: steps {steps}");
    }
}

#[test]
fn points_of_two_backends_look_independent() {
    for (one, other) in [("node1", "node2"), ("a", "b"), ("10.0.1.11:8080", "10.0.1.12:8080")] {
        let distances = (0..4096)
            .map(|r| unit(point_hash(Seed(5), &id(one), r).wrapping_sub(point_hash(Seed(5), &id(other), r))));
        let distance = kolmogorov_smirnov(distances.collect(), |x| x);
        assert!(distance < 1.95, "{one} {other}: {distance}");
    }
}

#[test]
fn neighbouring_addresses_spread_over_the_ring() {
    let hashes = (0..4096u32).map(|n| {
        let mut address = *b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\0";
        address[12..].copy_from_slice(&(0x0a00_0000 + n).to_be_bytes());
        unit(KeyHash::of_address(Seed(0), address).0)
    });
    let distance = kolmogorov_smirnov(hashes.collect(), |x| x);
    assert!(distance < 1.95, "{distance}");
}

#[test]
fn debug_output_hides_the_seed() {
    assert_eq!(format!("{:?}", Seed(42)), "Seed(…)");
}
