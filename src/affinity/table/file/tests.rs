use std::os::unix::fs::PermissionsExt;

use super::*;

const SEED: Seed = Seed(42);
const NOW: Timestamp = Timestamp(1_000_000);

fn id_of(slot: Slot) -> Option<BackendId> {
    (slot.0 < 1000).then(|| format!("node{}", slot.0).parse().unwrap())
}

/// Slots of another process: shifted by 7, without `node3`.
fn slot_of(id: &BackendId) -> Option<Slot> {
    let number: u16 = id.as_str().strip_prefix("node")?.parse().ok()?;
    (number != 3).then_some(Slot(number + 7))
}

fn filled(entries: u32) -> Table {
    let table = Table::new(100_000, 600);
    for n in 0..entries {
        table.bind(KeyHash(u64::from(n)), Slot(u16::try_from(n % 3).unwrap()), Timestamp(NOW.0 - n % 500));
    }
    table
}

fn bytes(table: &Table) -> Vec<u8> {
    let mut out = Vec::new();
    write(table, &mut out, SEED, NOW, id_of).unwrap();
    out
}

fn content(bytes: &[u8]) -> Result<Loaded, ContentError> {
    let table = Table::new(100_000, 600);
    let result = read(&table, bytes, SEED, NOW, slot_of);
    if result.is_err() {
        assert!(table.is_empty(), "an invalid file binds nothing");
    }
    result
}

#[test]
fn saved_bindings_are_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("table");
    let table = filled(20_000);
    assert_eq!(save(&table, &path, SEED, NOW, id_of).unwrap(), 20_000);

    let restored = Table::new(50_000, 600);
    let loaded = load(&restored, &path, SEED, NOW, slot_of).unwrap();
    let expected = Loaded { saved_at: NOW, restored: 20_000, expired: 0, unknown: 0, refused: 0 };
    assert_eq!(loaded, expected);
    for n in 0..20_000u32 {
        let slot = Slot(u16::try_from(n % 3).unwrap() + 7);
        assert_eq!(restored.peek(KeyHash(u64::from(n)), NOW), Some(slot));
    }
    assert_eq!(restored.sessions(Slot(7)), 6667);
    // Each keeps its age.
    let limit = Timestamp(NOW.0 + 350);
    assert_eq!(restored.peek(KeyHash(250), limit), Some(Slot(8)));
    assert_eq!(restored.peek(KeyHash(251), limit), None);
}

#[test]
fn saving_replaces_the_file_and_leaves_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("table");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    save(&filled(10), &path, SEED, NOW, id_of).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    assert_eq!(load(&Table::new(10, 600), &path, SEED, NOW, slot_of).unwrap().restored, 10);
}

#[test]
fn failed_save_leaves_the_old_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("table");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("x"), "").unwrap();
    let error = save(&filled(10), &path, SEED, NOW, id_of).unwrap_err();
    assert!(matches!(error, FileError::Io { action: "replace", .. }), "{error:?}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
    let missing = directory.path().join("no/where");
    assert!(matches!(save(&filled(1), &missing, SEED, NOW, id_of), Err(FileError::Io { .. })));
    assert!(matches!(load(&filled(1), &missing, SEED, NOW, slot_of), Err(FileError::Io { .. })));
}

#[test]
fn order_of_use_survives_the_file() {
    // One shard on the left, sixteen on the right, and one again.
    let table = Table::new(1000, 600);
    let mut expected = Vec::new();
    for n in 0..500u32 {
        let age = (n * 337) % 500;
        expected.push((age, u64::from(n)));
    }
    expected.sort_unstable_by(|a, b| b.cmp(a));
    for (age, key) in &expected {
        table.bind(KeyHash(*key), Slot(1), Timestamp(NOW.0 - age));
    }
    let middle = Table::new(5000, 600);
    read(&middle, &*bytes(&table), SEED, NOW, slot_of).unwrap();
    let mut out = Vec::new();
    write(&middle, &mut out, SEED, NOW, id_of).unwrap();
    let last = Table::new(1000, 600);
    read(&last, &*out, SEED, NOW, slot_of).unwrap();
    let mut keys = Vec::new();
    last.for_each(NOW, |saved| keys.push(saved.key.0));
    assert_eq!(keys, expected.iter().map(|(_, key)| *key).collect::<Vec<_>>());
}

#[test]
fn smaller_table_takes_the_most_recent() {
    let table = filled(500);
    let small = Table::new(100, 600);
    let loaded = read(&small, &*bytes(&table), SEED, NOW, slot_of).unwrap();
    assert_eq!((loaded.restored, loaded.refused), (100, 400));
    assert!((0..100).all(|n| small.peek(KeyHash(n), NOW).is_some()));
}

#[test]
fn live_bindings_win_over_the_file() {
    let table = Table::new(100, 600);
    table.bind(KeyHash(1), Slot(99), NOW);
    let loaded = read(&table, &*bytes(&filled(10)), SEED, NOW, slot_of).unwrap();
    assert_eq!((loaded.restored, loaded.refused), (9, 1));
    assert_eq!(table.peek(KeyHash(1), NOW), Some(Slot(99)));
}

#[test]
fn expired_bindings_and_unknown_backends_are_left_out() {
    let table = Table::new(100, 600);
    table.bind(KeyHash(1), Slot(1), Timestamp(NOW.0 - 601));
    table.bind(KeyHash(2), Slot(2), Timestamp(NOW.0 - 600));
    table.bind(KeyHash(3), Slot(3), NOW);
    table.bind(KeyHash(4), Slot(1000), NOW);
    table.bind(KeyHash(5), Slot(5), NOW);
    let mut out = Vec::new();
    assert_eq!(write(&table, &mut out, SEED, NOW, id_of).unwrap(), 3, "1 has expired, 4 has no id");
    let later = Timestamp(NOW.0 + 1);
    let loaded = read(&Table::new(100, 600), &*out, SEED, later, slot_of).unwrap();
    assert_eq!(loaded, Loaded { saved_at: NOW, restored: 1, expired: 1, unknown: 1, refused: 0 });
}

#[test]
fn empty_table_is_saved_and_loaded() {
    let loaded = content(&bytes(&Table::new(1, 1))).unwrap();
    assert_eq!(loaded.restored, 0);
}

#[test]
fn another_seed_is_refused() {
    let table = Table::new(100, 600);
    let result = read(&table, &*bytes(&filled(10)), Seed(43), NOW, slot_of);
    assert!(matches!(result, Err(ContentError::OtherSeed)));
    assert!(table.is_empty());
}

#[test]
fn every_truncation_is_refused() {
    let good = bytes(&filled(20));
    for len in 0..good.len() {
        let error = content(&good[..len]).unwrap_err();
        let expected = if len < 8 { "not a table file" } else { "truncated table file" };
        assert_eq!(error.to_string(), expected, "{len} bytes");
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let good = bytes(&filled(20));
    assert!(content(&good).is_ok());
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(content(&bad).is_err(), "bit {bit}");
    }
    let mut longer = good;
    longer.push(0);
    assert!(matches!(content(&longer), Err(ContentError::Corrupt(_))));
}

#[test]
fn foreign_and_future_files_are_refused() {
    assert!(matches!(content(b""), Err(ContentError::Foreign)));
    assert!(matches!(content(b"#!/bin/sh\nexit 0"), Err(ContentError::Foreign)));
    let mut future = bytes(&filled(1));
    future[8] = 2;
    assert!(matches!(content(&future), Err(ContentError::Version(2))));
}

#[test]
fn layout_of_version_1_does_not_change() {
    let table = Table::new(1, 600);
    table.bind(KeyHash(0x0102_0304_0506_0708), Slot(2), Timestamp(NOW.0 - 1));
    let mut expected = b"HOMINGTB\x01\0\0\0".to_vec();
    expected.extend_from_slice(&seed_digest(SEED));
    expected.extend_from_slice(&NOW.0.to_le_bytes());
    expected.extend_from_slice(b"\x01\0\0\0\x05node2");
    expected.extend_from_slice(b"\x01\0\0\0\x08\x07\x06\x05\x04\x03\x02\x01\0\0");
    expected.extend_from_slice(&(NOW.0 - 1).to_le_bytes());
    expected.extend_from_slice(b"\0\0\0\0\x01\0\0\0\0\0\0\0");
    let got = bytes(&table);
    assert_eq!(got[..got.len() - 8], expected);
    assert_eq!(got[got.len() - 8..], xxhash_rust::xxh3::xxh3_64(&expected).to_le_bytes());
    assert_eq!(seed_digest(Seed(0)), SEED_0_DIGEST);
}

/// `printf 'homing table seed\0\0\0\0\0\0\0\0\0' | sha256sum`, the first 8 bytes.
const SEED_0_DIGEST: [u8; 8] = [0x9e, 0xd8, 0x9d, 0x4f, 0x41, 0x83, 0xb9, 0x12];
