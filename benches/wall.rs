//! How long the parts of the hot path take: `cargo bench --bench wall`.
//!
//! Wall time depends on the machine and on who else uses it. To compare two commits, count
//! instructions instead: see `instructions.rs`.

#![expect(clippy::unwrap_used, reason = "a benchmark with wrong input must fail")]

mod subjects;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use homing::affinity::Slot;
use homing::affinity::pick::Binding;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    heads(&mut criterion);
    bodies(&mut criterion);
    keys(&mut criterion);
    rings(&mut criterion);
    tables(&mut criterion);
    picks(&mut criterion);
    cookies(&mut criterion);
    criterion.final_summary();
}

fn heads(c: &mut Criterion) {
    c.bench_function("request_head/small", |b| b.iter(|| subjects::request_head(subjects::SMALL_REQUEST)));
    c.bench_function("request_head/browser", |b| {
        b.iter(|| subjects::request_head(subjects::BROWSER_REQUEST));
    });
    c.bench_function("response_head", |b| b.iter(|| subjects::response_head(subjects::RESPONSE)));
}

fn bodies(c: &mut Criterion) {
    let bytes = subjects::chunked_body();
    let mut group = c.benchmark_group("body_chunked");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("framed", |b| b.iter(|| subjects::body_chunked(subjects::framed(), &bytes)));
    group.bench_function("unframed", |b| b.iter(|| subjects::body_chunked(subjects::unframed(), &bytes)));
}

fn keys(c: &mut Criterion) {
    let head = subjects::parsed(subjects::BROWSER_REQUEST);
    for name in ["ip", "cookie", "header", "query", "path_param"] {
        let source = subjects::key_source(name);
        c.bench_function(&format!("key/{name}"), |b| b.iter(|| subjects::key(&source, &head)));
    }
}

fn rings(c: &mut Criterion) {
    let (backends, keys) = (subjects::backends(), subjects::keys(0));
    let ring = subjects::ring(&backends);
    c.bench_function("ring/build", |b| b.iter_with_large_drop(|| subjects::ring(&backends)));
    let mut group = c.benchmark_group("ring");
    group.throughput(Throughput::Elements(subjects::BATCH));
    group.bench_function("home", |b| b.iter(|| subjects::ring_home(&ring, &keys)));
    group.bench_function("successor", |b| b.iter(|| subjects::ring_successor(&ring, &keys)));
}

fn tables(c: &mut Criterion) {
    let table = subjects::full_table();
    let (bound, unknown) = (subjects::names(0), subjects::names(1_000_000));
    let mut group = c.benchmark_group("table");
    group.throughput(Throughput::Elements(subjects::BATCH));
    group.bench_function("hit", |b| b.iter(|| subjects::table_lookup(&table, &bound)));
    group.bench_function("miss", |b| b.iter(|| subjects::table_lookup(&table, &unknown)));
    let mut run = 1000;
    group.bench_function("insert_and_evict", |b| {
        let fresh = || {
            run += 1;
            subjects::names(run)
        };
        b.iter_batched_ref(fresh, |names| subjects::table_insert(&table, names), BatchSize::SmallInput);
    });
}

fn picks(c: &mut Criterion) {
    let keys = subjects::keys(0);
    let mut group = c.benchmark_group("pick");
    group.throughput(Throughput::Elements(subjects::BATCH));
    for (name, down, binding) in [
        ("kept", 0, Binding::To(Slot(3))),
        ("new", 0, Binding::Absent),
        ("new_two_down", 2, Binding::Absent),
        ("moved", 1, Binding::To(Slot(0))),
    ] {
        let cluster = subjects::cluster(down);
        group.bench_function(name, |b| b.iter(|| subjects::pick_each(&cluster, &keys, black_box(binding))));
    }
}

fn cookies(c: &mut Criterion) {
    let keys = subjects::key_ring();
    let (backend, _) = subjects::backends().swap_remove(0);
    let value = subjects::seal(&keys, &backend);
    c.bench_function("cookie/seal", |b| b.iter(|| subjects::seal(&keys, &backend)));
    c.bench_function("cookie/open", |b| b.iter(|| subjects::open(&keys, &value)));
}
