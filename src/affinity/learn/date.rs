//! Parses dates in cookies, as loosely as servers write them.

/// Parses a date by the rules of RFC 6265 §5.1.1, which browsers follow: day, month, year and time
/// in any order, with almost any separators. This covers the formats of RFC 9110, RFC 850 and
/// asctime and the `Thu, 01-Jan-1970 00:00:10 GMT` of Tomcat and PHP. Returns seconds since the
/// Unix epoch, or `None` if the text is not a date.
pub fn cookie_date(text: &[u8]) -> Option<i64> {
    let mut time = None;
    let mut day = None;
    let mut month = None;
    let mut year = None;
    for token in text.split(|b| is_delimiter(*b)).filter(|token| !token.is_empty()) {
        // Each token is the first of these that is still missing and that it can be.
        if time.is_none() {
            time = parse_time(token);
            if time.is_some() {
                continue;
            }
        }
        if day.is_none() {
            day = parse_number(token, 1..=2);
            if day.is_some() {
                continue;
            }
        }
        if month.is_none() {
            month = parse_month(token);
            if month.is_some() {
                continue;
            }
        }
        if year.is_none() {
            year = parse_number(token, 2..=4);
        }
    }
    let (hour, minute, second) = time?;
    let (day, month) = (day?, month?);
    let year = match year? {
        year @ 70..=99 => year + 1900,
        year @ 0..=69 => year + 2000,
        year => year,
    };
    let in_range = (1..=days_in(month, year)).contains(&day)
        && year >= 1601
        && hour <= 23
        && minute <= 59
        && second <= 59;
    in_range.then(|| days_since_epoch(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

fn is_delimiter(byte: u8) -> bool {
    matches!(byte, 0x09 | 0x20..=0x2f | 0x3b..=0x40 | 0x5b..=0x60 | 0x7b..=0x7e)
}

/// Parses `h:m:s` of one or two digits each. Any non-digit ends it.
fn parse_time(token: &[u8]) -> Option<(i64, i64, i64)> {
    let mut parts = token.splitn(3, |b| *b == b':');
    let (hour, minute) = (parts.next()?, parts.next()?);
    if hour.len() > 2 || minute.len() > 2 {
        return None;
    }
    Some((parse_number(hour, 1..=2)?, parse_number(minute, 1..=2)?, parse_number(parts.next()?, 1..=2)?))
}

/// Parses leading digits, as many as `digits` allows, ignoring the rest.
fn parse_number(token: &[u8], digits: std::ops::RangeInclusive<usize>) -> Option<i64> {
    let end = token.iter().position(|b| !b.is_ascii_digit()).unwrap_or(token.len());
    digits.contains(&end).then(|| token[..end].iter().fold(0, |n, digit| n * 10 + i64::from(digit - b'0')))
}

fn parse_month(token: &[u8]) -> Option<i64> {
    let start = token.get(..3)?;
    (1..).zip(MONTHS).find(|(_, name)| start.eq_ignore_ascii_case(name)).map(|(month, _)| month)
}

fn days_in(month: i64, year: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Returns the days from 1970-01-01 to a date in the Gregorian calendar.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March have the leap day at the end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days_before_month = (month * 153 + 2) / 5;
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + days_before_month + day - 1 - DAYS_TO_EPOCH
}

/// Days from 0000-03-01 to 1970-01-01.
const DAYS_TO_EPOCH: i64 = 719_468;
const MONTHS: [&[u8]; 12] =
    [b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"];

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn date(text: &str) -> Option<i64> {
        cookie_date(text.as_bytes())
    }

    #[test]
    fn formats_that_servers_write_are_parsed() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun, 06-Nov-1994 08:49:37 GMT",
            "Sun, 6-nov-94 8:49:37",
            "08:49:37 GMT 06 November 1994",
        ] {
            assert_eq!(date(text), Some(784_111_777), "{text}");
        }
        assert_eq!(date("Thu, 01-Jan-1970 00:00:10 GMT"), Some(10));
        assert_eq!(date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(date("Mon, 01-Jan-0001 00:00:00 GMT"), Some(978_307_200), "as browsers parse it");
    }

    #[test]
    fn invalid_dates_are_rejected() {
        for text in [
            "",
            "0",
            "-1",
            "never",
            "Sun, 06 Nov 1994",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sun, 29 Feb 1900 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 06 Nov 1994 08:60:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 1600 08:49:37 GMT",
            "Sun, 06 Nov 19940 08:49:37 GMT",
            "06 Nov 1994 008:49:37 GMT",
        ] {
            assert_eq!(date(text), None, "{text}");
        }
    }

    #[test]
    fn agrees_with_http_dates_over_a_century() {
        for seconds in (0..4_000_000_000u64).step_by(86_400 * 3 + 4711) {
            let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(date(&text), i64::try_from(seconds).ok(), "{text}");
        }
    }
}
