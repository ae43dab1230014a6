//! Which private parts of asyncio's loop a program has replaced.
//!
//! Virtual clocks wrap `_selector.select` and replace `time()`; nested loops bring a `_run_once` of their
//! own. `Loop` detects what was replaced and stores it here. A loop of which nothing is replaced pays a
//! comparison of two numbers per tick.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};

use pyo3::intern;
use pyo3::prelude::*;
use threadlets_core::clock;

use super::{Dispatcher, hooks};
use crate::py::interpreter;

/// `time()` is not the monotonic clock.
pub(crate) const CLOCK: u8 = 1;
/// The poll goes through `_selector.select` and `_process_events`.
pub(crate) const POLL: u8 = 2;
/// Ticks go through `_run_once`.
pub(crate) const TICK: u8 = 4;
/// `call_later` goes through `call_at`.
pub(crate) const TIMERS: u8 = 8;
/// The program holds the list of timers, and may change it.
pub(crate) const LIST: u8 = 16;

/// Which private parts of a loop the program has replaced: a set of the bits above.
#[derive(Debug, Default)]
pub(crate) struct Replaced {
    replaced: AtomicU8,
    /// The version of the loop's class at the last check.
    class_version: AtomicU32,
}

impl Replaced {
    /// Whether any of these parts is replaced.
    pub(crate) fn has(&self, what: u8) -> bool {
        self.replaced.load(Relaxed) & what != 0
    }

    pub(crate) fn bits(&self) -> u8 {
        self.replaced.load(Relaxed)
    }

    pub(crate) fn set_bits(&self, replaced: u8) {
        self.replaced.store(replaced, Relaxed);
    }

    /// Whether `call_later` has to go through replaced methods.
    #[inline]
    pub(crate) fn replaces_timers(&self) -> bool {
        self.has(CLOCK | TIMERS)
    }

    /// Whether ticks are run by a replaced `_run_once`.
    #[inline]
    pub(crate) fn replaces_ticks(&self) -> bool {
        self.has(TICK)
    }

    /// Whether the poll has to go through replaced methods; called before each poll.
    #[inline]
    pub(crate) fn replaces_poll(slf: &Bound<'_, Dispatcher>) -> PyResult<bool> {
        let this = &slf.get().replaced;
        if this.class_version.load(Relaxed) != interpreter::class_version(slf) {
            Self::look(slf)?;
        }
        Ok(this.has(CLOCK | POLL | LIST))
    }

    /// The loop's class has changed: have the loop detect what is replaced.
    #[cold]
    fn look(slf: &Bound<'_, Dispatcher>) -> PyResult<()> {
        hooks::detect_replaced(slf)?;
        // Read afterwards: the look-ups have assigned the class its version.
        slf.get().replaced.class_version.store(interpreter::class_version(slf), Relaxed);
        Ok(())
    }
}

/// The loop's time, in seconds.
pub(crate) fn now(slf: &Bound<'_, Dispatcher>) -> PyResult<f64> {
    if !slf.get().replaced.has(CLOCK) {
        return Ok(clock::to_seconds(clock::now_ns()));
    }
    slf.call_method0(intern!(slf.py(), "time"))?.extract()
}

/// The time up to which timers are due, by a replaced clock; `None`: the clock is the monotonic one.
#[inline]
pub(crate) fn due_ns(slf: &Bound<'_, Dispatcher>) -> PyResult<Option<u64>> {
    if !slf.get().replaced.has(CLOCK) {
        return Ok(None);
    }
    let resolution: f64 = slf.getattr(intern!(slf.py(), "_clock_resolution"))?.extract()?;
    let now = now(slf)?;
    // asyncio runs timers that are due before `now + resolution`, which a float may round to `now`.
    let before_ns = clock::deadline_ns(now + resolution);
    Ok(Some(before_ns.saturating_sub(1).max(clock::deadline_ns(now))))
}
