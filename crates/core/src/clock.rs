//! The loop's clock: CLOCK_MONOTONIC in nanoseconds, as Python's `time.monotonic()` reads it.

use rustix::time::{ClockId, clock_gettime};

const NS_PER_SECOND: f64 = 1e9;

/// The current time, in nanoseconds since the clock's own start.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// A time in seconds, as Python programs see it.
pub fn to_seconds(time_ns: u64) -> f64 {
    time_ns as f64 / NS_PER_SECOND
}

/// The first nanosecond at which the clock has reached `seconds`.
///
/// Rounds up, so that a timer never fires before the time that its owner can read off the
/// clock. Times before the clock's start give zero; infinity and not-a-number give the greatest
/// number, which is never reached.
pub fn deadline_ns(seconds: f64) -> u64 {
    if seconds.is_nan() {
        return u64::MAX;
    }
    // A float-to-integer cast saturates at both ends.
    (seconds * NS_PER_SECOND).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_does_not_run_backwards() {
        let first = now_ns();
        assert!(now_ns() >= first);
    }

    #[test]
    fn deadlines_round_up_and_saturate() {
        assert_eq!(1_500_000_000, deadline_ns(1.5));
        assert_eq!(1, deadline_ns(1e-10));
        assert_eq!(0, deadline_ns(-3.0));
        assert_eq!(u64::MAX, deadline_ns(f64::INFINITY));
        assert_eq!(u64::MAX, deadline_ns(f64::NAN));
    }
}
