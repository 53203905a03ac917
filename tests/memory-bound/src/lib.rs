//! Tests of limits: how much memory a piece of work takes at most.
//!
//! Linking this crate makes the counting allocator of `allocation-counter` the
//! test program's allocator. It counts by thread, so tests may run side by side;
//! work that is measured must stay on its thread (an async test uses a runtime of
//! the current thread).
//!
//! A limit of the product is tested by giving the code much more than the limit
//! lets through, within a bound that the limit explains:
//!
//! ```
//! const KEPT_MAX: usize = 1 << 10;
//! let kept: Vec<u8> = memory_bound::within(1 << 16, || {
//!     std::iter::repeat_n(7, 4 << 20).take(KEPT_MAX).collect()
//! });
//! assert_eq!(kept.len(), KEPT_MAX);
//! ```

/// Runs work and gives its result with the most bytes that it had allocated at
/// once, beyond what the thread had before.
pub fn peak<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let mut result = None;
    let counted = allocation_counter::measure(|| result = Some(work()));
    let Some(result) = result else { unreachable!("the work was done") };
    (result, counted.bytes_max)
}

/// Runs work and fails when it ever has more than so many bytes allocated. Gives
/// its result.
///
/// # Panics
/// When the work takes more.
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
