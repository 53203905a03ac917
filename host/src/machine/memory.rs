//! The host's memory that is available to machines.

/// Memory that vbuild and QEMU use in addition to the guest's, estimated generously.
pub(crate) const BESIDE_GUEST_BYTES: u64 = 256 << 20;

/// Returns the memory available to processes in bytes; `None` if the host does not report it.
pub(crate) fn available() -> Option<u64> {
    std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_in(&text))
}

/// Returns `MemAvailable` of /proc/meminfo in bytes.
pub(crate) fn available_in(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
