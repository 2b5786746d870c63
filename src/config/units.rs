//! Parses and formats durations and sizes: `"250ms"`, `"16KiB"`.

use std::time::Duration;

/// Seconds in a minute, an hour and a day.
pub(super) const MINUTE: u64 = 60;
pub(super) const HOUR: u64 = 60 * MINUTE;
pub(super) const DAY: u64 = 24 * HOUR;

/// Units of time, with their length in milliseconds.
const TIME_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
/// Units of size, with their length in bytes.
const SIZE_UNITS: [(&str, u64); 5] =
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// An invalid duration or size, with a suggested spelling if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) instead: Option<String>,
}

/// Parses an integer with a unit of time.
pub(super) fn parse_duration(text: &str) -> Result<Duration, Unreadable> {
    let (number, unit) = split(text);
    let Some(scale) = scale(&TIME_UNITS, unit) else {
        return Err(Unreadable { instead: guess_duration(text) });
    };
    let millis = number.parse::<u64>().ok().and_then(|n| n.checked_mul(scale));
    millis.map(Duration::from_millis).ok_or(Unreadable { instead: None })
}

/// Parses an integer with a unit of size.
pub(super) fn parse_size(text: &str) -> Result<u64, Unreadable> {
    let (number, unit) = split(text);
    let Some(scale) = scale(&SIZE_UNITS, unit) else {
        return Err(Unreadable { instead: guess_size(number, unit) });
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)).ok_or(Unreadable { instead: None })
}

/// Formats a duration in the largest unit that divides it.
pub fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let whole = TIME_UNITS.iter().rev().find(|(_, scale)| millis.is_multiple_of(*scale));
    whole.map_or_else(|| format!("{millis}ms"), |(unit, scale)| format!("{}{unit}", millis / scale))
}

/// Formats a size in the largest unit that divides it.
pub(super) fn show_size(bytes: u64) -> String {
    let whole = SIZE_UNITS.iter().rev().find(|(_, scale)| bytes != 0 && bytes.is_multiple_of(*scale));
    whole.map_or_else(|| format!("{bytes}B"), |(unit, scale)| format!("{}{unit}", bytes / scale))
}

fn split(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(digits)
}

fn scale(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale)
}

/// Suggests the valid spelling of `"1.5s"`, `"1m30s"` and `"10 sec"`.
fn guess_duration(text: &str) -> Option<String> {
    let mut millis = 0u64;
    let mut rest = text.trim();
    if rest.is_empty() || rest.len() > 32 || !rest.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    while !rest.is_empty() {
        let (whole, after) = split(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split(after),
            None => ("", after),
        };
        let after = after.trim_start();
        let word_len = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (word, after) = after.split_at(word_len);
        let unit = match word.to_ascii_lowercase().as_str() {
            "ms" | "msec" | "millis" | "milliseconds" => 1,
            "s" | "sec" | "secs" | "second" | "seconds" => 1000,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
            "h" | "hr" | "hour" | "hours" => 3_600_000,
            "d" | "day" | "days" => 86_400_000,
            _ => return None,
        };
        let mut part = whole.parse::<u64>().ok()?.checked_mul(unit)?;
        let mut digit_worth = unit;
        for digit in fraction.bytes() {
            digit_worth /= 10;
            part = part.checked_add(u64::from(digit - b'0') * digit_worth)?;
        }
        millis = millis.checked_add(part)?;
        rest = after.trim_start();
    }
    Some(show_duration(Duration::from_millis(millis)))
}

/// Suggests the valid spelling of `"16k"`, `"16KB"` and `"1 MB"`.
fn guess_size(number: &str, unit: &str) -> Option<String> {
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" | "byte" | "bytes" => "B",
        "k" | "kb" | "kib" => "KiB",
        "m" | "mb" | "mib" => "MiB",
        "g" | "gb" | "gib" => "GiB",
        "t" | "tb" | "tib" => "TiB",
        _ => return None,
    };
    number.parse::<u64>().ok().map(|number| format!("{number}{unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instead(result: Result<impl std::fmt::Debug, Unreadable>) -> Option<String> {
        result.unwrap_err().instead
    }

    #[test]
    fn durations_are_integers_with_a_unit() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse_duration("30d"), Ok(Duration::from_secs(30 * 86_400)));
        for bad in ["", "s", "2", "-2s", "2 s", "1.5s", "1m30s", "2S", "2sec", "٣s", "99999999999999999999s"]
        {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert!(parse_duration("18446744073709551615d").is_err());
    }

    #[test]
    fn common_misspellings_of_durations_get_a_suggestion() {
        assert_eq!(instead(parse_duration("1.5s")).as_deref(), Some("1500ms"));
        assert_eq!(instead(parse_duration("1m30s")).as_deref(), Some("90s"));
        assert_eq!(instead(parse_duration("10 sec")).as_deref(), Some("10s"));
        assert_eq!(instead(parse_duration("2 Minutes")).as_deref(), Some("2m"));
        assert_eq!(instead(parse_duration("soon")), None);
        assert_eq!(instead(parse_duration("1x")), None);
        assert_eq!(instead(parse_duration(".5s")), None);
        assert_eq!(instead(parse_duration("99999999999999999999d1h")), None);
    }

    #[test]
    fn sizes_are_integers_with_a_binary_unit() {
        assert_eq!(parse_size("512B"), Ok(512));
        assert_eq!(parse_size("16KiB"), Ok(16 << 10));
        assert_eq!(parse_size("1MiB"), Ok(1 << 20));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert_eq!(instead(parse_size("16k")).as_deref(), Some("16KiB"));
        assert_eq!(instead(parse_size("1 MB")).as_deref(), Some("1MiB"));
        assert_eq!(instead(parse_size("big")), None);
        assert!(parse_size("18446744073709551615GiB").is_err());
    }

    #[test]
    fn formatted_values_parse_back() {
        for millis in [0, 1, 250, 1000, 1500, 60_000, 90_000, 3_600_000, 86_400_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
        for bytes in [0, 1, 1023, 1024, 1 << 20, (1 << 20) + 1, 3 << 30] {
            assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }
    }
}
