//! Parses dates in Release files: `Sat, 11 Jul 2026 10:16:37 UTC`.

/// Returns the seconds since the epoch of a Release date; `None` if it is malformed. Debian always
/// writes UTC (`UTC`, `GMT`, `+0000`, `Z`); other zones are refused.
#[must_use]
pub(crate) fn parse(text: &str) -> Option<u64> {
    let rest = text.split_once(',').map_or(text, |(_, rest)| rest);
    let mut words = rest.split_ascii_whitespace();
    let day: u64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let year: u64 = words.next()?.parse().ok()?;
    let clock = words.next()?;
    if !matches!(words.next(), Some("UTC" | "GMT" | "+0000" | "Z")) {
        return None;
    }
    let months =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|name| *name == month)? as u64 + 1;
    let mut parts = clock.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    if !(1970..=9999).contains(&year)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    Some(days_since_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Returns the days since 1970-01-01 in the Gregorian calendar. Years are counted from March, so
/// that a leap day is the last day.
fn days_since_epoch(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = year / 4 - year / 100 + year / 400;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    // There are 719,468 days between 0000-03-01 and 1970-01-01.
    year * 365 + leaps + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        assert_eq!(parse("Thu, 01 Jan 1970 00:00:00 UTC"), Some(0));
        assert_eq!(parse("Sat, 11 Jul 2026 10:16:37 UTC"), Some(1_783_764_997));
        assert_eq!(parse("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
    }

    #[test]
    fn malformed_dates() {
        for text in
            ["", "Sat, 11 Jul 2026", "Sat, 11 Jul 2026 10:16:37 CEST", "x, 99 Foo 1 1:1:1 UTC"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
