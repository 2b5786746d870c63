//! How many instructions the parts of the hot path take, counted by Callgrind.
//!
//! Counts are the same from run to run, whatever else the machine does, so that a change of 2 %
//! shows. `bench/instructions/run` compares two commits by them. Needs valgrind, and
//! gungraun-runner of the version in `Cargo.lock`.
//!
//! What a function returns is dropped outside of what is counted.

#![expect(clippy::unwrap_used, reason = "a benchmark with wrong input must fail")]
#![expect(unused_qualifications, missing_docs, clippy::exit, reason = "what gungraun's macros expand to")]

mod subjects;

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group, main};
use homing::affinity::cookie::KeyRing;
use homing::affinity::key::KeySource;
use homing::affinity::pick::Binding;
use homing::affinity::ring::Ring;
use homing::affinity::table::Table;
use homing::affinity::{BackendId, Cluster, KeyHash, SessionName, Slot, Weight};
use homing::h1::{Body, RequestHead};

#[library_benchmark]
#[bench::small(subjects::SMALL_REQUEST)]
#[bench::browser(subjects::BROWSER_REQUEST)]
fn request_head(buf: &'static [u8]) -> usize {
    subjects::request_head(buf)
}

#[library_benchmark]
#[bench::typical(subjects::RESPONSE)]
fn response_head(buf: &'static [u8]) -> usize {
    subjects::response_head(buf)
}

#[library_benchmark]
#[bench::framed(subjects::framed(), subjects::chunked_body())]
#[bench::unframed(subjects::unframed(), subjects::chunked_body())]
fn body_chunked(body: Body, bytes: Vec<u8>) -> (usize, Vec<u8>) {
    (subjects::body_chunked(body, &bytes), bytes)
}

type Key = (KeyHash, [KeySource; 1]);

#[library_benchmark]
#[bench::ip(subjects::key_source("ip"), subjects::parsed(subjects::BROWSER_REQUEST))]
#[bench::cookie(subjects::key_source("cookie"), subjects::parsed(subjects::BROWSER_REQUEST))]
#[bench::header(subjects::key_source("header"), subjects::parsed(subjects::BROWSER_REQUEST))]
#[bench::query(subjects::key_source("query"), subjects::parsed(subjects::BROWSER_REQUEST))]
#[bench::path_param(subjects::key_source("path_param"), subjects::parsed(subjects::BROWSER_REQUEST))]
fn key(source: [KeySource; 1], head: RequestHead<'static>) -> Key {
    (subjects::key(&source, &head), source)
}

#[library_benchmark]
#[bench::eight(subjects::backends())]
fn ring_build(backends: Vec<(BackendId, Weight)>) -> (Ring, Vec<(BackendId, Weight)>) {
    (subjects::ring(&backends), backends)
}

#[library_benchmark]
#[bench::eight(subjects::ring(&subjects::backends()), subjects::keys(0))]
fn ring_home(ring: Ring, keys: Vec<KeyHash>) -> (u64, Ring, Vec<KeyHash>) {
    (subjects::ring_home(&ring, &keys), ring, keys)
}

#[library_benchmark]
#[bench::eight(subjects::ring(&subjects::backends()), subjects::keys(0))]
fn ring_successor(ring: Ring, keys: Vec<KeyHash>) -> (u64, Ring, Vec<KeyHash>) {
    (subjects::ring_successor(&ring, &keys), ring, keys)
}

#[library_benchmark]
#[bench::hit(subjects::full_table(), subjects::names(0))]
#[bench::miss(subjects::full_table(), subjects::names(1_000_000))]
fn table_lookup(table: Table, names: Vec<SessionName>) -> (usize, Table, Vec<SessionName>) {
    (subjects::table_lookup(&table, &names), table, names)
}

#[library_benchmark]
#[bench::full(subjects::full_table(), subjects::names(1_000_000))]
fn table_insert(table: Table, names: Vec<SessionName>) -> (Table, Vec<SessionName>) {
    subjects::table_insert(&table, &names);
    (table, names)
}

#[library_benchmark]
#[bench::kept(subjects::cluster(0), subjects::keys(0), Binding::To(Slot(3)))]
#[bench::new(subjects::cluster(0), subjects::keys(0), Binding::Absent)]
#[bench::new_two_down(subjects::cluster(2), subjects::keys(0), Binding::Absent)]
#[bench::moved(subjects::cluster(1), subjects::keys(0), Binding::To(Slot(0)))]
fn pick(cluster: Cluster, keys: Vec<KeyHash>, binding: Binding) -> (u64, Cluster, Vec<KeyHash>) {
    (subjects::pick_each(&cluster, &keys, black_box(binding)), cluster, keys)
}

/// A key ring and a backend to seal.
fn sealing() -> (KeyRing, BackendId) {
    let (keys, backend) = (subjects::key_ring(), subjects::backends().swap_remove(0).0);
    // The first nonce of a process seeds the random number generator.
    subjects::seal(&keys, &backend);
    (keys, backend)
}

/// A key ring and a value it has sealed.
fn sealed() -> (KeyRing, String) {
    let (keys, backend) = sealing();
    let value = subjects::seal(&keys, &backend);
    (keys, value)
}

#[library_benchmark]
#[bench::typical(sealing())]
fn cookie_seal((keys, backend): (KeyRing, BackendId)) -> (String, KeyRing, BackendId) {
    (subjects::seal(&keys, &backend), keys, backend)
}

#[library_benchmark]
#[bench::typical(sealed())]
fn cookie_open((keys, value): (KeyRing, String)) -> (u32, KeyRing, String) {
    (subjects::open(&keys, &value).0, keys, value)
}

library_benchmark_group!(name = h1, benchmarks = [request_head, response_head, body_chunked]);
library_benchmark_group!(
    name = affinity,
    benchmarks = [
        key,
        ring_build,
        ring_home,
        ring_successor,
        table_lookup,
        table_insert,
        pick,
        cookie_seal,
        cookie_open
    ]
);

main!(library_benchmark_groups = [h1, affinity]);
