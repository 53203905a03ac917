//! Points in time as text, in UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECONDS_PER_DAY: u64 = 86_400;

/// A point in time in UTC, split into the parts of a date and a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Utc {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    nanosecond: u32,
}

impl From<SystemTime> for Utc {
    /// Converts a time. Times before 1970, which only a wrong clock gives, become 1970.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let (days, rest) = (since.as_secs() / SECONDS_PER_DAY, since.as_secs() % SECONDS_PER_DAY);
        let (year, month, day) = output::civil_date(days);
        Self {
            year,
            month,
            day,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
            nanosecond: since.subsec_nanos(),
        }
    }
}

impl Utc {
    /// Formats the time as in diskimage-builder's logs: `2026-11-20 23:17:35.597`.
    pub(crate) fn log_stamp(&self) -> String {
        let Self { year, month, day, hour, minute, second, nanosecond } = self;
        let millisecond = nanosecond / 1_000_000;
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millisecond:03}")
    }

    /// Formats the time as in virt-dib's JSON: `2026-11-20T23:17:35.597839305+00:00`.
    pub(crate) fn rfc3339(&self) -> String {
        let Self { year, month, day, hour, minute, second, nanosecond } = self;
        format!(
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanosecond:09}+00:00"
        )
    }

    /// Formats the time for lists: `2026-11-20 23:17`.
    pub(crate) fn minute_stamp(&self) -> String {
        let Self { year, month, day, hour, minute, .. } = self;
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}")
    }

    /// Formats the time as in B9's logs: `23:17:35`.
    pub(crate) fn time_of_day(&self) -> String {
        let Self { hour, minute, second, .. } = self;
        format!("{hour:02}:{minute:02}:{second:02}")
    }

    /// Formats the time as B9 dates builds: `2026-11-20-23:17:35`.
    pub(crate) fn build_date(&self) -> String {
        let Self { year, month, day, .. } = self;
        format!("{year:04}-{month:02}-{day:02}-{}", self.time_of_day())
    }

    /// Formats the time for names of files: `20261120-231735`.
    pub(crate) fn compact(&self) -> String {
        let Self { year, month, day, hour, minute, second, .. } = self;
        format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(seconds: u64, expected: &str) {
        let time = UNIX_EPOCH + Duration::new(seconds, 597_839_305);
        assert_eq!(Utc::from(time).rfc3339(), format!("{expected}.597839305+00:00"));
    }

    #[test]
    fn known_instants() {
        check(0, "1970-01-01T00:00:00");
        check(951_782_400, "2000-02-29T00:00:00");
        check(951_868_799, "2000-02-29T23:59:59");
        check(1_709_251_199, "2024-02-29T23:59:59");
        check(1_709_251_200, "2024-03-01T00:00:00");
        check(4_107_542_399, "2100-02-28T23:59:59");
        check(4_107_542_400, "2100-03-01T00:00:00");
    }

    #[test]
    fn the_other_forms() {
        let time = Utc::from(UNIX_EPOCH + Duration::new(1_000_000_000, 7_000_000));
        assert_eq!(time.log_stamp(), "2001-09-09 01:46:40.007");
        assert_eq!(time.minute_stamp(), "2001-09-09 01:46");
        assert_eq!(time.compact(), "20010909-014640");
        assert_eq!(time.build_date(), "2001-09-09-01:46:40");
    }
}
