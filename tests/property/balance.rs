//! Measures how evenly the ring spreads keys. `docs/affinity.md` compares the figures with
//! those of other proxies.
//!
//!     cargo test --release --test property -- --ignored --nocapture --test-threads=1 balance

#![expect(clippy::cast_precision_loss, reason = "figures for people to read, from numbers far below 2^52")]

use std::hint::black_box;
use std::time::Instant;

use homing::affinity::ring::Ring;
use homing::affinity::{BackendId, KeyHash, Seed, Weight};

use crate::world::{id, keys};

/// The default of `ring.vnodes`.
const VNODES: u32 = 1024;
const KEYS: u32 = 200_000;

fn backends(count: u16) -> Vec<(BackendId, Weight)> {
    (0..count).map(|n| (id(n), Weight::ONE)).collect()
}

fn peak(shares: impl IntoIterator<Item = f64>, count: u16) -> f64 {
    shares.into_iter().fold(0.0, f64::max) * f64::from(count)
}

fn hits(ring: &Ring, keys: &[KeyHash]) -> Vec<f64> {
    let mut hits = vec![0.0; ring.members()];
    for &key in keys {
        hits[usize::from(ring.home(key).unwrap())] += 1.0 / f64::from(KEYS);
    }
    hits
}

struct Row {
    arc: Vec<f64>,
    hit: Vec<f64>,
    removed: Vec<f64>,
    added: Vec<f64>,
    extra: usize,
    heir: Vec<f64>,
}

fn measure(count: u16, seeds: u64) -> Row {
    let mut row = Row { arc: vec![], hit: vec![], removed: vec![], added: vec![], extra: 0, heir: vec![] };
    let all = backends(count + 1);
    let own = usize::from(count);
    for seed in 0..seeds {
        let ring = Ring::build(Seed(seed), VNODES, &all[..own]);
        let keys: Vec<KeyHash> = keys(u64::from(KEYS), seed).collect();
        row.arc.push(peak(ring.shares(), count));
        row.hit.push(peak(hits(&ring, &keys), count));

        // Once without the last backend, once with one more.
        let smaller = Ring::build(Seed(seed), VNODES, &all[..own - 1]);
        let larger = Ring::build(Seed(seed), VNODES, &all);
        let (mut removed, mut added, mut heirs) = (0.0, 0.0, vec![0.0; own]);
        for &key in &keys {
            let (home, after) = (ring.home(key).unwrap(), smaller.home(key).unwrap());
            if usize::from(home) == own - 1 {
                removed += 1.0;
                heirs[usize::from(after)] += 1.0;
            } else if home != after {
                row.extra += 1;
            }
            let after = larger.home(key).unwrap();
            if usize::from(after) == own {
                added += 1.0;
            } else if home != after {
                row.extra += 1;
            }
        }
        row.removed.push(removed / f64::from(KEYS));
        row.added.push(added / f64::from(KEYS));
        row.heir.push(heirs.into_iter().fold(0.0, f64::max) / removed);
    }
    row
}

fn mean(figures: &[f64]) -> f64 {
    figures.iter().sum::<f64>() / figures.len() as f64
}

fn worst(figures: &[f64]) -> f64 {
    figures.iter().copied().fold(0.0, f64::max)
}

#[test]
#[ignore = "a measurement: run it in release"]
fn balance_of_the_default_ring() {
    println!(
        "| N | peak/mean, arcs | worst | peak/mean, {KEYS} keys | worst | moved on removal (ideal) \
         | moved on add (ideal) | extra | top heir (ideal) |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (count, seeds) in [(3, 200), (5, 200), (10, 200), (50, 50)] {
        let row = measure(count, seeds);
        let n = f64::from(count);
        println!(
            "| {count} | {:.3} | {:.3} | {:.3} | {:.3} | {:.1} % ({:.1}) | {:.1} % ({:.1}) | {} | {:.3} ({:.3}) |",
            mean(&row.arc),
            worst(&row.arc),
            mean(&row.hit),
            worst(&row.hit),
            100.0 * mean(&row.removed),
            100.0 / n,
            100.0 * mean(&row.added),
            100.0 / (n + 1.0),
            row.extra,
            mean(&row.heir),
            1.0 / (n - 1.0),
        );
    }
}

#[test]
#[ignore = "a measurement: run it in release"]
fn cost_of_lookups_and_of_building_the_default_ring() {
    let all = backends(50);
    let ring = Ring::build(Seed(1), VNODES, &all);
    let keys: Vec<KeyHash> = keys(1 << 16, 0).collect();
    // The fastest of many rounds: other load on the machine only ever adds time.
    let best = |rounds: u32, round: &dyn Fn()| {
        let time = |_| {
            let begin = Instant::now();
            round();
            begin.elapsed().as_secs_f64()
        };
        (0..rounds).map(time).fold(f64::INFINITY, f64::min)
    };
    let per_key = |what: &str, lookup: &dyn Fn(KeyHash) -> Option<u16>| {
        let seconds = best(60, &|| {
            for &key in &keys {
                black_box(lookup(black_box(key)));
            }
        });
        println!("{what}: {:.1} ns", seconds * 1e9 / keys.len() as f64);
    };
    per_key("first, at home", &|key| ring.first(key, |_, _| true));
    per_key("first, half of the members unavailable", &|key| ring.first(key, |member, _| member % 2 == 0));
    per_key("first, 49 of 50 unavailable", &|key| ring.first(key, |member, _| member == 7));
    per_key("first, all unavailable", &|key| ring.first(key, |_, _| false));
    per_key("second on the walk", &|key| ring.walk(key).nth(1));

    let seconds = best(60, &|| drop(black_box(Ring::build(Seed(1), VNODES, black_box(&all)))));
    println!("build, 50 × 1024 points: {:.2} ms", seconds * 1e3);
}

#[test]
fn ten_backends_have_even_shares() {
    // σ of a share is 1/√1024: 3.1 %. A hash that is not uniform fails here.
    let peaks: Vec<f64> =
        (0..8).map(|seed| peak(Ring::build(Seed(seed), VNODES, &backends(10)).shares(), 10)).collect();
    assert!(mean(&peaks) < 1.07, "{peaks:?}");
    assert!(worst(&peaks) < 1.13, "{peaks:?}");
}
