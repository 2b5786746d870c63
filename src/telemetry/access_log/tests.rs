use std::time::Instant;

use serde_json::Value;

use super::output::TestOutput;
use super::*;
use crate::affinity::pick::{Outcome, Reason};
use crate::affinity::recall::Layer;
use crate::model::LogOutput;
use crate::telemetry::fixture;

const TIMEOUT: Duration = Duration::from_secs(20);

fn config(format: LogFormat, queue: usize) -> model::AccessLog {
    model::AccessLog { format, output: LogOutput::Stdout, queue }
}

fn start(format: LogFormat, queue: usize) -> (AccessLog, TestOutput) {
    let output = TestOutput::default();
    let log = AccessLog::start_with(&config(format, queue), Output::Test(output.clone())).expect("starts");
    (log, output)
}

fn lines(output: &TestOutput) -> Vec<String> {
    String::from_utf8(output.written.lock().clone()).expect("UTF-8").lines().map(str::to_owned).collect()
}

fn one_line(format: LogFormat, record: &Record<'_>) -> String {
    let (log, output) = start(format, 16);
    log.log(record);
    log.close();
    let mut lines = lines(&output);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.remove(0)
}

#[test]
fn json_line_has_every_field() {
    let upstream = fixture::upstream("shop", &["node1", "node2"]);
    let from = "node1".parse().expect("an id");
    let record = Record {
        error: Some("body_idle"),
        member: Some(1),
        outcome: Some(Outcome::Moved),
        reason: Some(Reason::BackendDown),
        from: Some(&from),
        attempts: 2,
        connect: Duration::from_micros(250),
        tunnel: true,
        ..fixture::record(&upstream)
    };
    let line = one_line(LogFormat::Json, &record);
    let mut value: Value = serde_json::from_str(&line).expect("valid JSON");
    let time = value["time"].take();
    let time = time.as_str().expect("a time");
    assert!(time.len() == "2026-11-24T07:08:36.015Z".len() && time.ends_with('Z'), "{time}");
    assert_eq!(
        value,
        serde_json::json!({
            "time": null, "client": "192.0.2.7", "method": "GET", "host": "shop.example.com",
            "path": "/cart", "version": "HTTP/1.1", "status": 200, "error": "body_idle",
            "upstream": "shop", "backend": "node2", "key_source": "cookie:SID", "key_hash": "000000000000002a", "outcome": "moved",
            "reason": "backend_down", "from": "node1", "attempts": 2, "duration_ms": 1.5, "first_byte_ms": 1.042,
            "connect_ms": 0.25, "bytes_in": 120, "bytes_out": 3400, "tunnel": true,
        })
    );
}

#[test]
fn operations_page_lists_exactly_these_fields() {
    let upstream = fixture::upstream("shop", &["node1"]);
    let from = "node0".parse().expect("an id");
    let record = Record {
        error: Some("body_idle"),
        layer: Some(Layer::Cookie),
        reason: Some(Reason::BackendDown),
        from: Some(&from),
        connect: Duration::from_micros(250),
        tunnel: true,
        ..fixture::record(&upstream)
    };
    let line = one_line(LogFormat::Text, &record);
    assert!(line.contains(" memory=cookie "), "{line}");
    let logged: Vec<_> = line.split(' ').filter_map(|field| Some(field.split_once('=')?.0)).collect();
    let (_, rest) =
        include_str!("../../../docs/operations.md").split_once("## Access log").expect("a heading");
    let rows =
        rest.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let documented: Vec<_> = rows.skip(2).filter_map(|row| row.split('`').nth(1)).collect();
    assert_eq!(documented, logged, "docs/operations.md and telemetry/access_log/line.rs differ");
}

#[test]
fn unknown_values_are_omitted() {
    let line = one_line(LogFormat::Json, &fixture::unrouted());
    let value: Value = serde_json::from_str(&line).expect("valid JSON");
    for absent in [
        "upstream",
        "backend",
        "key_source",
        "key_hash",
        "memory",
        "outcome",
        "reason",
        "from",
        "connect_ms",
        "tunnel",
    ] {
        assert!(value.get(absent).is_none(), "{absent} in {line}");
    }
    assert_eq!(value["status"], 404);
    assert_eq!(value["error"], "no_route");
}

#[test]
fn out_of_range_indices_are_omitted() {
    let upstream = fixture::upstream("shop", &["node1"]);
    let record = Record { member: Some(9), key_source: Some(9), ..fixture::record(&upstream) };
    let value: Value = serde_json::from_str(&one_line(LogFormat::Json, &record)).expect("valid JSON");
    assert!(value.get("backend").is_none() && value.get("key_source").is_none());
}

#[test]
fn text_line_is_key_value() {
    let upstream = fixture::upstream("shop", &["node1"]);
    let line = one_line(LogFormat::Text, &fixture::record(&upstream));
    let (time, rest) = line.split_once(' ').expect("fields");
    assert!(time.starts_with("time=2"), "{time}");
    assert_eq!(
        rest,
        "client=192.0.2.7 method=GET host=shop.example.com path=/cart version=HTTP/1.1 status=200 \
         upstream=shop backend=node1 key_source=cookie:SID key_hash=000000000000002a outcome=kept attempts=1 duration_ms=1.500 \
         first_byte_ms=1.042 bytes_in=120 bytes_out=3400"
    );
}

#[test]
fn requests_cannot_forge_lines_or_fields() {
    let upstream = fixture::upstream("shop", &["node1"]);
    let hostile = "/a\" status=200\r\ntime=2026 \u{1b}[31m\u{2028}\u{85}\\ outcome=kept\u{202e}é\0";
    let record =
        Record { path: hostile, host: "h=1 status=200", method: "G\"T", ..fixture::record(&upstream) };

    let json = one_line(LogFormat::Json, &record);
    let value: Value = serde_json::from_str(&json).expect("valid JSON");
    assert_eq!(value["path"], hostile);
    assert_eq!(value["host"], "h=1 status=200");

    let text = one_line(LogFormat::Text, &record);
    for line in [&json, &text] {
        assert!(!line.chars().any(|c| c.is_control() || c == '\u{2028}' || c == '\u{202e}'), "{line}");
    }
    // Outside of quotes, each key occurs once.
    let mut outside = String::new();
    let (mut quoted, mut escaped) = (false, false);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            c if !quoted => outside.push(c),
            _ => {}
        }
    }
    assert_eq!(outside.matches("status=").count(), 1, "{outside}");
    assert_eq!(outside.matches("outcome=").count(), 1, "{outside}");
    assert_eq!(outside.matches("time=").count(), 1, "{outside}");
}

#[test]
fn empty_value_is_quoted_in_text() {
    assert!(one_line(LogFormat::Text, &fixture::unrouted()).contains(" host=\"\" "));
}

#[test]
fn full_lane_drops_and_counts_without_waiting() {
    let upstream = fixture::upstream("shop", &["node1"]);
    let (log, output) = start(LogFormat::Json, 10);
    let stuck = output.written.lock();
    let begun = Instant::now();
    // While the output is blocked, at most the queue and the lines that a pass has taken from the lane
    // are waiting.
    for _ in 0..1_000 {
        log.log(&fixture::record(&upstream));
    }
    assert!(begun.elapsed() < TIMEOUT);
    let dropped = log.counts().dropped();
    assert!((980..=990).contains(&dropped), "{dropped}");
    drop(stuck);
    log.close();
    assert_eq!(lines(&output).len() as u64, 1_000 - dropped);
}

#[test]
fn long_lines_are_limited_by_bytes() {
    let upstream = fixture::upstream("shop", &["node1"]);
    let (log, output) = start(LogFormat::Json, 100);
    let stuck = output.written.lock();
    let path = "x".repeat(8 * 1024);
    for _ in 0..100 {
        log.log(&Record { path: &path, ..fixture::record(&upstream) });
    }
    let kept = 100 - log.counts().dropped();
    // A lane has 50 KiB: six or seven lines of more than 8 KiB, and as many that the writer holds.
    assert!((6..=14).contains(&kept), "{kept}");
    drop(stuck);
    log.close();
}

#[test]
fn close_writes_queued_lines_and_later_lines_are_lost() {
    let upstream = fixture::upstream("shop", &["node1"]);
    let (log, output) = start(LogFormat::Text, 1_000);
    let other = log.clone();
    for _ in 0..100 {
        log.log(&fixture::record(&upstream));
        other.log(&fixture::record(&upstream));
    }
    log.close();
    assert_eq!(lines(&output).len(), 200);
    other.log(&fixture::record(&upstream));
    assert!(other.flush(TIMEOUT), "flush waits for a closed log");
    assert_eq!(lines(&output).len(), 200);
}

#[test]
fn lines_are_written_without_a_flush() {
    let upstream = fixture::upstream("shop", &["node1"]);
    let (log, output) = start(LogFormat::Text, 1_000);
    log.log(&fixture::record(&upstream));
    let begun = Instant::now();
    while output.written.lock().is_empty() {
        assert!(begun.elapsed() < TIMEOUT, "nothing was written");
        std::thread::yield_now();
    }
}

#[test]
fn dropping_the_last_handle_stops_the_writer_and_loses_nothing() {
    let upstream = fixture::upstream("shop", &["node1"]);
    let (log, output) = start(LogFormat::Text, 1_000);
    let other = log.clone();
    drop(log);
    other.log(&fixture::record(&upstream));
    drop(other);
    // The writer holds the second reference until it stops.
    let begun = Instant::now();
    while Arc::strong_count(&output.written) > 1 {
        assert!(begun.elapsed() < TIMEOUT, "the writer did not stop");
        std::thread::yield_now();
    }
    assert_eq!(lines(&output).len(), 1);
}

#[test]
fn write_errors_are_counted_and_survived() {
    let upstream = fixture::upstream("shop", &["node1"]);
    let full = TestOutput::default();
    *full.room.lock() = Some(0);
    let log = AccessLog::start_with(&config(LogFormat::Json, 10), Output::Test(full)).expect("starts");
    log.log(&fixture::record(&upstream));
    assert!(log.flush(TIMEOUT));
    log.log(&fixture::record(&upstream));
    assert!(log.flush(TIMEOUT));
    assert_eq!((log.counts().errors(), log.counts().dropped()), (2, 2));
}

#[test]
fn lines_lost_to_a_full_disk_are_counted_and_the_rest_is_whole() {
    let upstream = fixture::upstream("shop", &["node1"]);
    let (log, output) = start(LogFormat::Json, 100);
    log.log(&fixture::record(&upstream));
    assert!(log.flush(TIMEOUT));
    let line = output.written.lock().len();
    // There is room for one more line and a half.
    *output.room.lock() = Some(line + line / 2);
    let before = log.counts().dropped();
    let stuck = output.written.lock();
    for _ in 0..5 {
        log.log(&fixture::record(&upstream));
    }
    drop(stuck);
    assert!(log.flush(TIMEOUT));
    log.log(&fixture::record(&upstream));
    assert!(log.flush(TIMEOUT));
    *output.room.lock() = None;
    log.log(&fixture::record(&upstream));
    log.close();
    let lines = lines(&output);
    let whole = lines.iter().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count() as u64;
    assert_eq!(log.counts().dropped() - before, 8 - whole, "{lines:#?}");
    assert_eq!(
        (whole, lines.len()),
        (3, 4),
        "two before the disk was full, a piece, and one after: {lines:#?}"
    );
}

#[test]
fn renamed_file_is_reopened() {
    let upstream = fixture::upstream("shop", &["node1"]);
    let folder = tempfile::tempdir().expect("a folder");
    let (path, rotated) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let config =
        model::AccessLog { format: LogFormat::Text, output: LogOutput::File(path.clone()), queue: 100 };
    std::fs::write(&path, "before\n").expect("written");
    let log = AccessLog::start(&config).expect("starts");
    log.log(&fixture::record(&upstream));
    assert!(log.flush(TIMEOUT));
    std::fs::rename(&path, &rotated).expect("renamed");
    log.log(&fixture::record(&upstream));
    log.reopen().expect("reopens");
    assert!(log.flush(TIMEOUT));
    log.log(&fixture::record(&upstream));
    log.close();
    let count = |path| std::fs::read_to_string(path).expect("readable").lines().count();
    assert_eq!(count(&rotated), 3, "lines before the reopen must be appended to the old file");
    assert_eq!(count(&path), 1);
}

#[test]
fn failed_reopen_keeps_the_old_file() {
    let upstream = fixture::upstream("shop", &["node1"]);
    let folder = tempfile::tempdir().expect("a folder");
    let inner = folder.path().join("logs");
    std::fs::create_dir(&inner).expect("created");
    let path = inner.join("access.log");
    let output = LogOutput::File(path);
    let log =
        AccessLog::start(&model::AccessLog { format: LogFormat::Text, output, queue: 100 }).expect("starts");
    let moved = folder.path().join("moved");
    std::fs::rename(&inner, &moved).expect("renamed");
    assert!(log.reopen().is_err());
    log.log(&fixture::record(&upstream));
    log.close();
    assert_eq!(std::fs::read_to_string(moved.join("access.log")).expect("readable").lines().count(), 1);
}

#[test]
fn log_that_is_off_does_nothing() {
    let log = AccessLog::start(&config(LogFormat::Off, 10)).expect("starts");
    assert!(!log.enabled());
    log.log(&fixture::unrouted());
    log.reopen().expect("reopens nothing");
    assert!(log.flush(Duration::ZERO));
    log.close();
    assert!(start(LogFormat::Json, 1).0.enabled());
}

#[test]
fn unopenable_output_is_an_error_at_startup() {
    let output = LogOutput::File("/nonexistent/access.log".into());
    let config = model::AccessLog { format: LogFormat::Json, output, queue: 10 };
    assert!(AccessLog::start(&config).is_err());
}
