//! Tests of memory limits.
//!
//! Linking this crate makes the counting allocator of `allocation-counter` the test program's
//! allocator. It counts per thread, so tests may run in parallel; measured work must stay on its
//! thread (an async test uses a current-thread runtime).
//!
//! To test a limit of the product, give the code much more than the limit permits, within a bound
//! that follows from the limit:
//!
//! ```
//! const KEPT_MAX: usize = 1 << 10;
//! let kept: Vec<u8> = memory_bound::within(1 << 16, || {
//!     std::iter::repeat_n(7, 4 << 20).take(KEPT_MAX).collect()
//! });
//! assert_eq!(kept.len(), KEPT_MAX);
//! ```

/// Runs work; returns its result and the maximum bytes that it had allocated at once, beyond the
/// thread's allocations before.
pub fn peak<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let mut result = None;
    let counted = allocation_counter::measure(|| result = Some(work()));
    let Some(result) = result else { unreachable!("the work was done") };
    (result, counted.bytes_max)
}

/// Runs work, and fails if it ever has more than `max_bytes` allocated. Returns its result.
///
/// # Panics
/// Panics if the work allocates more.
#[track_caller]
pub fn within<T>(max_bytes: u64, work: impl FnOnce() -> T) -> T {
    let (result, bytes) = peak(work);
    assert!(bytes <= max_bytes, "the work took {bytes} bytes of memory, more than {max_bytes}");
    result
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_was_freed_counts_at_its_peak() {
        let ((), bytes) = super::peak(|| drop(std::hint::black_box(vec![1_u8; 1 << 20])));
        assert!((1 << 20..1 << 21).contains(&bytes), "{bytes}");
    }

    #[test]
    #[should_panic(expected = "more than 1000")]
    fn more_than_the_bound_fails() {
        super::within(1000, || std::hint::black_box(vec![1_u8; 1001]));
    }
}
