//! Determines the frequency of the host's time stamp counter, which is the guest's under TCG.
//!
//! It is measured against the monotonic clock. If that is impossible, the first frequency in
//! `/proc/cpuinfo` is used; it is the current clock rate of a core, which frequency scaling makes
//! different from the TSC's.

use std::{
    fs,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

/// Measuring time: two readings 10 ms apart are accurate to 50 ppm, far better than the 1 % that a
/// build tolerates.
const WATCH: Duration = Duration::from_millis(10);
/// Plausible frequencies of a real TSC; an emulated counter of nanoseconds is outside.
const PLAUSIBLE_KHZ: std::ops::Range<u32> = 400_000..8_000_000;
/// The frequency of a nanosecond counter, which a host without a usable TSC emulates.
const NANOSECONDS_KHZ: u32 = 1_000_000;

/// The frequency in kHz, measured once per process. The first call blocks for 10 ms.
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
    // Rates within 0.1 % of 1 GHz are taken for nanoseconds.
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
