//! `TimeSlice`: how long a step goes on with awaits that are done at once, before other requests run.
//!
//! A step is identified by a number that no other has: the dispatcher counts its requests. So a step that
//! never begins such an await costs nothing, and one that begins a single one costs a look at the clock.

/// How long the steps of a tick, together, may begin awaits that are done at once, in nanoseconds from the
/// first of them on; then come the poll and the timers.
///
/// Figures are in docs/threadlets.md: slices of 50 us to 5 ms give the same throughput, and another task is
/// late by about the slice. With shorter slices the loop polls more often, and a poll lends the GIL to any
/// thread that waits for it.
pub const SLICE_NS: u64 = 1_000_000;

/// How long each step may do so at least, in nanoseconds: a switch to another step costs less than a
/// hundredth of that.
pub const STEP_MIN_NS: u64 = 100_000;

/// When the present tick, and its last step, began such awaits.
#[derive(Debug, Clone, Copy)]
pub struct TimeSlice {
    /// When the tick's first such await began; zero: none has.
    tick_began_ns: u64,
    /// The step that has last begun one.
    step: u64,
    /// When the step's time began: at its first such await, or when it last was used up.
    step_began_ns: u64,
}

impl Default for TimeSlice {
    fn default() -> Self {
        // No step has this number.
        Self { tick_began_ns: 0, step: u64::MAX, step_began_ns: 0 }
    }
}

impl TimeSlice {
    /// Begin a tick, and with it another slice.
    #[inline]
    pub fn begin_tick(&mut self) {
        self.tick_began_ns = 0;
    }

    /// Whether other requests have to run before an await begins in this step. A step that goes on all the
    /// same, because a coroutine is driven by hand, is not told so again at once.
    #[inline]
    pub fn is_used_up(&mut self, step: u64, now_ns: u64) -> bool {
        if self.tick_began_ns == 0 {
            self.tick_began_ns = now_ns;
        }
        let is_first = self.step != step;
        let is_used_up = !is_first
            && now_ns.saturating_sub(self.step_began_ns) >= STEP_MIN_NS
            && now_ns.saturating_sub(self.tick_began_ns) >= SLICE_NS;
        if is_first || is_used_up {
            (self.step, self.step_began_ns) = (step, now_ns);
        }
        is_used_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_alone_has_the_slice_from_its_first_await_on() {
        let mut slice = TimeSlice::default();
        assert!(!slice.is_used_up(0, 5));
        assert!(!slice.is_used_up(0, 5 + SLICE_NS - 1));
        assert!(slice.is_used_up(0, 5 + SLICE_NS));
    }

    #[test]
    fn the_steps_of_a_tick_share_a_slice_but_each_has_some() {
        let mut slice = TimeSlice::default();
        assert!(!slice.is_used_up(0, 5));
        let late = 5 + 2 * SLICE_NS;
        assert!(!slice.is_used_up(1, late));
        assert!(!slice.is_used_up(1, late + STEP_MIN_NS - 1));
        assert!(slice.is_used_up(1, late + STEP_MIN_NS));
    }

    #[test]
    fn another_tick_has_another_slice() {
        let mut slice = TimeSlice::default();
        assert!(!slice.is_used_up(0, 5));
        slice.begin_tick();
        assert!(!slice.is_used_up(1, 10 * SLICE_NS));
        assert!(!slice.is_used_up(1, 11 * SLICE_NS - 1));
        assert!(slice.is_used_up(1, 11 * SLICE_NS));
    }

    #[test]
    fn a_step_that_goes_on_all_the_same_is_not_told_at_once_again() {
        let mut slice = TimeSlice::default();
        assert!(!slice.is_used_up(1, 5));
        assert!(slice.is_used_up(1, 5 + SLICE_NS));
        assert!(!slice.is_used_up(1, 5 + SLICE_NS));
        assert!(slice.is_used_up(1, 5 + SLICE_NS + STEP_MIN_NS));
    }
}
