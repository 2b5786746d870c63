//! Dates and times as text.

use std::time::{SystemTime, UNIX_EPOCH};

/// Formats a time by RFC 3339, in UTC with whole seconds: `2026-11-24T07:08:36Z`.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    date_time(since.as_secs()) + "Z"
}

/// Formats the Gregorian date and the time of day, without fraction. Years start on 1 March, in eras
/// of 400 years, so the leap day is the last day of its year.
pub(super) fn date_time(seconds: u64) -> String {
    // Four digits are enough until the year 9999.
    let seconds = seconds.min(253_402_300_799);
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let days = days + 719_468; // from 0000-03-01 to 1970-01-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (time / 3_600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_are_gregorian() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_796_000_000, "2026-11-30T00:53:20"),
            (4_107_542_399, "2100-02-28T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
            (u64::MAX, "9999-12-31T23:59:59"),
        ] {
            assert_eq!(date_time(seconds), text);
        }
    }

    proptest! {
        #[test]
        fn formatted_seconds_of_four_centuries_are_in_order(seconds in 0u64..12_622_780_800) {
            prop_assert!(date_time(seconds) < date_time(seconds + 1));
        }
    }
}
