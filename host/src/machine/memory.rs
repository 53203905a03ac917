//! The memory of the host that machines can have.

/// Memory that vbuild and QEMU use in addition to the guest's, estimated generously.
pub(crate) const BESIDE_GUEST_BYTES: u64 = 256 << 20;

/// Memory that is available to processes, in bytes; `None` where the host does not say.
pub(crate) fn available() -> Option<u64> {
    std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_in(&text))
}

/// `MemAvailable` in bytes.
pub(crate) fn available_in(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
