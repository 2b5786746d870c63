use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::affinity::name::Owner;

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
        table.bind(
            SessionName(u64::from(n)),
            Slot(u16::try_from(n % 3).unwrap()),
            Owner(0),
            Timestamp(NOW.0 - n % 500),
        );
    }
    table
}

fn bytes(table: &Table) -> Vec<u8> {
    let mut out = Vec::new();
    write(table, &mut out, NOW, id_of).unwrap();
    out
}

fn content(bytes: &[u8]) -> Result<Loaded, ContentError> {
    let table = Table::new(100_000, 600);
    let result = read(&table, bytes, NOW, slot_of);
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
    assert_eq!(save(&table, &path, NOW, id_of).unwrap(), 20_000);

    let restored = Table::new(50_000, 600);
    let loaded = load(&restored, &path, NOW, slot_of).unwrap();
    let expected = Loaded { saved_at: NOW, restored: 20_000, expired: 0, unknown: 0, refused: 0 };
    assert_eq!(loaded, expected);
    for n in 0..20_000u32 {
        let slot = Slot(u16::try_from(n % 3).unwrap() + 7);
        assert_eq!(restored.peek(SessionName(u64::from(n)), NOW), Some(slot));
    }
    assert_eq!(restored.sessions(Slot(7)), 6667);
    // Each keeps its age.
    let limit = Timestamp(NOW.0 + 350);
    assert_eq!(restored.peek(SessionName(250), limit), Some(Slot(8)));
    assert_eq!(restored.peek(SessionName(251), limit), None);
}

#[test]
fn saving_replaces_the_file_and_leaves_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("table");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    save(&filled(10), &path, NOW, id_of).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    assert_eq!(load(&Table::new(10, 600), &path, NOW, slot_of).unwrap().restored, 10);
}

#[test]
fn failed_save_leaves_the_old_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("table");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("x"), "").unwrap();
    let error = save(&filled(10), &path, NOW, id_of).unwrap_err();
    assert!(matches!(error, FileError::Io { action: "replace", .. }), "{error:?}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
    let missing = directory.path().join("no/where");
    assert!(matches!(save(&filled(1), &missing, NOW, id_of), Err(FileError::Io { .. })));
    assert!(matches!(load(&filled(1), &missing, NOW, slot_of), Err(FileError::Io { .. })));
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
        table.bind(SessionName(*key), Slot(1), Owner(0), Timestamp(NOW.0 - age));
    }
    let middle = Table::new(5000, 600);
    read(&middle, &*bytes(&table), NOW, slot_of).unwrap();
    let mut out = Vec::new();
    write(&middle, &mut out, NOW, id_of).unwrap();
    let last = Table::new(1000, 600);
    read(&last, &*out, NOW, slot_of).unwrap();
    let mut keys = Vec::new();
    last.for_each(NOW, |saved| keys.push(saved.name.0));
    assert_eq!(keys, expected.iter().map(|(_, key)| *key).collect::<Vec<_>>());
}

#[test]
fn smaller_table_takes_the_most_recent() {
    let table = filled(500);
    let small = Table::new(100, 600);
    let loaded = read(&small, &*bytes(&table), NOW, slot_of).unwrap();
    assert_eq!((loaded.restored, loaded.refused), (100, 400));
    assert!((0..100).all(|n| small.peek(SessionName(n), NOW).is_some()));
}

#[test]
fn live_bindings_win_over_the_file() {
    let (table, saved) = (Table::new(100, 600), filled(10));
    assert!(table.adopt(saved.namer().secret()));
    table.bind(SessionName(1), Slot(99), Owner(0), NOW);
    let loaded = read(&table, &*bytes(&saved), NOW, slot_of).unwrap();
    assert_eq!((loaded.restored, loaded.refused), (9, 1));
    assert_eq!(table.peek(SessionName(1), NOW), Some(Slot(99)));
}

#[test]
fn expired_bindings_and_unknown_backends_are_left_out() {
    let table = Table::new(100, 600);
    table.bind(SessionName(1), Slot(1), Owner(0), Timestamp(NOW.0 - 601));
    table.bind(SessionName(2), Slot(2), Owner(0), Timestamp(NOW.0 - 600));
    table.bind(SessionName(3), Slot(3), Owner(0), NOW);
    table.bind(SessionName(4), Slot(1000), Owner(0), NOW);
    table.bind(SessionName(5), Slot(5), Owner(0), NOW);
    let mut out = Vec::new();
    assert_eq!(write(&table, &mut out, NOW, id_of).unwrap(), 3, "1 has expired, 4 has no id");
    let later = Timestamp(NOW.0 + 1);
    let loaded = read(&Table::new(100, 600), &*out, later, slot_of).unwrap();
    assert_eq!(loaded, Loaded { saved_at: NOW, restored: 1, expired: 1, unknown: 1, refused: 0 });
}

#[test]
fn empty_table_is_saved_and_loaded() {
    let loaded = content(&bytes(&Table::new(1, 1))).unwrap();
    assert_eq!(loaded.restored, 0);
}

#[test]
fn loaded_table_names_sessions_as_the_saved_one() {
    let saved = Table::new(100, 600);
    let name = saved.namer().of_id(b"abc");
    saved.bind(name, Slot(1), Owner(0), NOW);
    let loaded = Table::new(100, 600);
    read(&loaded, &*bytes(&saved), NOW, slot_of).unwrap();
    assert_eq!(loaded.namer().of_id(b"abc"), name);
    assert_eq!(loaded.peek(name, NOW), Some(Slot(8)));
}

#[test]
fn table_that_has_named_sessions_cannot_load() {
    let table = Table::new(100, 600);
    let _ = table.namer().of_id(b"abc");
    let result = read(&table, &*bytes(&filled(10)), NOW, slot_of);
    assert!(matches!(result, Err(ContentError::InUse)));
    assert!(table.is_empty());
}

#[test]
fn where_ids_are_from_survives_the_file() {
    let table = Table::new(3, 600);
    let scope = table.namer().root_scope();
    table.learn(SessionName(1), Slot(1), scope, None, NOW);
    table.bind(SessionName(2), Slot(2), Owner(7), NOW);
    let out = bytes(&table);
    let loaded = Table::new(3, 600);
    read(&loaded, &*out, NOW, slot_of).unwrap();
    let mut tags = Vec::new();
    loaded.for_each(NOW, |saved| tags.push((saved.name.0, saved.tag)));
    tags.sort_unstable_by_key(|(name, _)| *name);
    assert_eq!(tags, [(1, Tag::minted(scope)), (2, Tag::unminted(Owner(7)))]);
    let small = Table::new(1, 600);
    read(&small, &*out, NOW, slot_of).unwrap();
    assert_eq!(small.peek(SessionName(1), NOW), Some(Slot(8)), "minted ids come first");
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
    let mut other = bytes(&filled(1));
    other[8] = 3;
    assert!(matches!(content(&other), Err(ContentError::Version(3))));
    other[8] = 1;
    assert!(matches!(content(&other), Err(ContentError::Outdated)));
}

#[test]
fn layout_of_version_2_does_not_change() {
    let table = Table::new(1, 600);
    assert!(table.adopt(NameSecret(*b"sixteen bytes ok")));
    table.bind(SessionName(0x0102_0304_0506_0708), Slot(2), Owner(0xabcd), Timestamp(NOW.0 - 1));
    let mut expected = b"HOMINGTB\x02\0\0\0".to_vec();
    expected.extend_from_slice(b"sixteen bytes ok");
    expected.extend_from_slice(&NOW.0.to_le_bytes());
    expected.extend_from_slice(b"\x01\0\0\0\x05node2");
    expected.extend_from_slice(b"\x01\0\0\0\x08\x07\x06\x05\x04\x03\x02\x01\0\0");
    expected.extend_from_slice(&(NOW.0 - 1).to_le_bytes());
    expected.extend_from_slice(b"\xcd\xab\0\0");
    expected.extend_from_slice(b"\0\0\0\0\x01\0\0\0\0\0\0\0");
    let got = bytes(&table);
    assert_eq!(got[..got.len() - 8], expected);
    assert_eq!(got[got.len() - 8..], xxhash_rust::xxh3::xxh3_64(&expected).to_le_bytes());
}
