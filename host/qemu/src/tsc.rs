//! The rate of the host's time stamp counter, which is the guest's under TCG.
//!
//! Measured against the monotonic clock; the first line of `/proc/cpuinfo` that
//! tells a frequency serves only where it cannot be: it is the present clock
//! rate of a core, which frequency scaling moves away from the TSC's.

use std::{
    fs,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

/// How long the counter is watched: two readings 10 ms apart are good to 50
/// parts in a million, far better than the 1 % that a build can stand.
const WATCH: Duration = Duration::from_millis(10);
/// Rates that a real TSC has; a stand-in counting nanoseconds is outside.
const PLAUSIBLE_KHZ: std::ops::Range<u32> = 400_000..8_000_000;
/// The rate of a counter of nanoseconds, which a host without a usable TSC
/// gives instead.
const NANOSECONDS_KHZ: u32 = 1_000_000;

/// The rate in kHz, measured once per process. Blocks for 10 ms the first time.
pub(crate) fn khz() -> Option<u32> {
    static RATE: OnceLock<Option<u32>> = OnceLock::new();
    *RATE.get_or_init(|| measure().or_else(from_cpuinfo))
}

fn measure() -> Option<u32> {
    let counter = quanta::Clock::new();
    let (start, first) = (Instant::now(), counter.raw());
    thread::sleep(WATCH);
    let last = counter.raw();
    let nanos = start.elapsed().as_nanos();
    let ticks = u128::from(last.checked_sub(first)?);
    let rate = u32::try_from((ticks * 1_000_000).checked_div(nanos)?).ok()?;
    // 0.1 % around 1 GHz is taken for nanoseconds.
    let stand_in = rate.abs_diff(NANOSECONDS_KHZ) < 1_000;
    (PLAUSIBLE_KHZ.contains(&rate) && !stand_in).then_some(rate)
}

fn from_cpuinfo() -> Option<u32> {
    parse_cpuinfo(&fs::read_to_string("/proc/cpuinfo").ok()?)
}

fn parse_cpuinfo(text: &str) -> Option<u32> {
    let line = text.lines().find(|line| line.starts_with("cpu MHz"))?;
    let (mhz, fraction) = line.split_once(':')?.1.trim().split_once('.')?;
    let khz: u32 = format!("{mhz}{:0<3}", fraction.get(..3.min(fraction.len()))?).parse().ok()?;
    PLAUSIBLE_KHZ.contains(&khz).then_some(khz)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuinfo_lines() {
        let text = |mhz: &str| format!("processor\t: 0\ncpu MHz\t\t: {mhz}\ncache size\t: 1 KB\n");
        assert_eq!(parse_cpuinfo(&text("1999.999")), Some(1_999_999));
        assert_eq!(parse_cpuinfo(&text("2600.5")), Some(2_600_500));
        assert_eq!(parse_cpuinfo(&text("0.000")), None);
        assert_eq!(parse_cpuinfo("processor : 0\n"), None);
    }

    #[test]
    fn the_rate_of_this_host_is_plausible_if_known() {
        if let Some(rate) = khz() {
            assert!(PLAUSIBLE_KHZ.contains(&rate), "{rate}");
        }
    }
}
