//! The format of an access log line: fields, escaping and timestamp.
//!
//! Host, path and method come from the network. Quoted values are JSON strings in both formats.
//! Everything that could end the line, leave the quotes or disturb a terminal is escaped. In format
//! `text`, values of harmless characters are not quoted.

use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::model::LogFormat;
use crate::telemetry::Record;
use crate::telemetry::calendar::date_time;

/// Appends one line, including its line feed.
pub(super) fn format(
    out: &mut Vec<u8>,
    format: LogFormat,
    clock: &mut Clock,
    now: SystemTime,
    record: &Record<'_>,
) {
    let mut line = Line { out, json: format != LogFormat::Text, separator: "" };
    if line.json {
        line.out.push(b'{');
    }
    line.shown("time", clock.format(now));
    line.shown("client", record.client);
    line.text("method", record.method);
    line.text("host", record.host);
    line.path(record.path);
    line.text("version", record.version);
    line.number("status", u64::from(record.status));
    if let Some(error) = record.error {
        line.text("error", error);
    }
    if let Some(upstream) = record.upstream {
        line.text("upstream", &upstream.config.name);
        let members = upstream.cluster.members();
        if let Some(member) = record.member.and_then(|index| members.get(usize::from(index))) {
            line.text("backend", member.id.as_str());
        }
        let sources = &upstream.config.affinity.key;
        if let Some(source) = record.key_source.and_then(|index| sources.get(index)) {
            line.text("key_source", &source.to_string());
        }
    }
    if let Some(layer) = record.layer {
        line.text("memory", layer.as_str());
    }
    if let Some(key) = record.key {
        line.key_hash(key.0);
    }
    if let Some(outcome) = record.outcome {
        line.text("outcome", outcome.as_str());
    }
    if let Some(reason) = record.reason {
        line.text("reason", reason.as_str());
    }
    if let Some(from) = record.from {
        line.text("from", from.as_str());
    }
    line.number("attempts", u64::from(record.attempts));
    line.millis("duration_ms", record.duration);
    if let Some(first_byte) = record.first_byte {
        line.millis("first_byte_ms", first_byte);
    }
    if !record.connect.is_zero() {
        line.millis("connect_ms", record.connect);
    }
    line.number("bytes_in", record.bytes_in);
    line.number("bytes_out", record.bytes_out);
    if record.tunnel {
        line.key("tunnel");
        line.out.extend_from_slice(b"true");
    }
    if line.json {
        line.out.push(b'}');
    }
    line.out.push(b'\n');
}

/// Formats timestamps. It caches the formatted second.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: Option<u64>,
    /// RFC 3339 in UTC with milliseconds: `2026-11-24T07:08:36.015Z`.
    text: String,
}

impl Clock {
    fn format(&mut self, now: SystemTime) -> &str {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            self.second = Some(since.as_secs());
            self.text = date_time(since.as_secs());
        }
        self.text.truncate("2026-11-24T07:08:36".len());
        let _ = write!(self.text, ".{:03}Z", since.subsec_millis());
        &self.text
    }
}

/// Returns a time as the access log writes it.
pub(crate) fn timestamp(time: SystemTime) -> String {
    let mut clock = Clock::default();
    clock.format(time).to_owned()
}

struct Line<'a> {
    out: &'a mut Vec<u8>,
    json: bool,
    separator: &'static str,
}

impl Line<'_> {
    fn key(&mut self, key: &str) {
        self.out.extend_from_slice(self.separator.as_bytes());
        if self.json {
            self.out.push(b'"');
            self.out.extend_from_slice(key.as_bytes());
            self.out.extend_from_slice(b"\":");
            self.separator = ",";
        } else {
            self.out.extend_from_slice(key.as_bytes());
            self.out.push(b'=');
            self.separator = " ";
        }
    }

    /// Appends an untrusted string.
    fn text(&mut self, key: &str, value: &str) {
        if !self.json && !value.is_empty() && value.bytes().all(is_harmless) {
            self.shown(key, value);
        } else {
            self.key(key);
            push_quoted(self.out, value);
        }
    }

    /// Appends a path without the values of its parameters (`;jsessionid=…`), which may be secret ids.
    fn path(&mut self, path: &str) {
        if !path.contains(';') {
            return self.text("path", path);
        }
        let mut shown = String::with_capacity(path.len());
        for segment in path.split_inclusive('/') {
            let (name, slash) = segment.strip_suffix('/').map_or((segment, ""), |name| (name, "/"));
            for (index, parameter) in name.split(';').enumerate() {
                match parameter.split_once('=') {
                    Some((name, _)) if index > 0 => {
                        shown.push(';');
                        shown.push_str(name);
                    }
                    _ => {
                        shown.push_str(if index > 0 { ";" } else { "" });
                        shown.push_str(parameter);
                    }
                }
            }
            shown.push_str(slash);
        }
        self.text("path", &shown);
    }

    /// Appends a value that displays as harmless characters, without allocating.
    fn shown(&mut self, key: &str, value: impl Display) {
        self.key(key);
        let quote: &[u8] = if self.json { b"\"" } else { b"" };
        self.out.extend_from_slice(quote);
        let _ = write!(self.out, "{value}");
        self.out.extend_from_slice(quote);
    }

    /// Appends a hash as 16 hexadecimal digits, as `homing explain` shows it.
    fn key_hash(&mut self, hash: u64) {
        self.shown("key_hash", format_args!("{hash:016x}"));
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// Appends milliseconds with three decimals.
    fn millis(&mut self, key: &str, value: Duration) {
        self.number(key, u64::try_from(value.as_millis()).unwrap_or(u64::MAX));
        let micros = value.subsec_micros() % 1_000;
        let digit = |n: u32| b'0' + u8::try_from(n % 10).unwrap_or(0);
        self.out.extend_from_slice(&[b'.', digit(micros / 100), digit(micros / 10), digit(micros)]);
    }
}

fn is_harmless(b: u8) -> bool {
    b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'=')
}

/// Appends a JSON string (RFC 8259 section 7).
fn push_quoted(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    let mut rest = value;
    // Most values need no escaping, so copy runs at once.
    while let Some((at, c)) = rest.char_indices().find(|(_, c)| needs_escape(*c)) {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            c => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
        }
        rest = &rest[at + c.len_utf8()..];
    }
    out.extend_from_slice(rest.as_bytes());
    out.push(b'"');
}

/// Returns whether a character must be escaped: those that JSON requires, and those that move a
/// terminal's cursor, break lines or change the text direction. All are below U+10000.
fn needs_escape(c: char) -> bool {
    match c {
        '"' | '\\' => true,
        ' '..='~' => false,
        c => {
            c.is_control()
                || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn clock_shows_milliseconds_and_follows_jumps() {
        let mut clock = Clock::default();
        let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        assert_eq!(clock.format(at(1_007)), "1970-01-01T00:00:01.007Z");
        assert_eq!(clock.format(at(1_999)), "1970-01-01T00:00:01.999Z");
        assert_eq!(clock.format(at(86_400_000)), "1970-01-02T00:00:00.000Z");
        assert_eq!(clock.format(at(5)), "1970-01-01T00:00:00.005Z");
    }

    #[test]
    fn values_of_path_parameters_are_not_logged() {
        for (path, shown) in [
            ("/a/b", "path=/a/b"),
            ("/app;jsessionid=SECRET/x", "path=/app;jsessionid/x"),
            ("/a;v=1;jsessionid=SECRET=b;w/c=d;e", "path=\"/a;v;jsessionid;w/c=d;e\""),
            ("/;jsessionid=SECRET", "path=/;jsessionid"),
            (";=SECRET;;/", "path=;;;/"),
        ] {
            let mut out = Vec::new();
            Line { out: &mut out, json: false, separator: "" }.path(path);
            assert_eq!(String::from_utf8_lossy(&out), shown);
        }
    }

    proptest! {
        #[test]
        fn quoted_text_is_json_on_one_line(value in "\\PC*|(.|[\u{0}-\u{ff}\u{2028}\u{202e}\"\\\\\n\r])*") {
            let mut out = Vec::new();
            push_quoted(&mut out, &value);
            let back: String = serde_json::from_slice(&out).expect("valid JSON");
            prop_assert_eq!(back, value);
            let text = String::from_utf8(out).expect("UTF-8");
            prop_assert!(!text.chars().any(char::is_control));
        }
    }
}
