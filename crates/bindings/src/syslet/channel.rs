//! Channels: how ended runs come to a sweep or a completion ring, which waits for many.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use threadlets_core::clock;
use threadlets_core::syslet::{CompletionSink, Run};
use threadlets_core::takeover::{Parker, WakeReason};

use crate::dispatcher::completion_queue::CompletionQueue;

#[derive(Default)]
struct ChannelState {
    ended: VecDeque<Box<Run>>,
    /// Loops that are notified when so many runs are there, each with the token of the future that waits.
    waiters: Vec<(usize, Arc<CompletionQueue>, u64)>,
    /// The fewest runs that a waiting thread wants to see.
    n_wanted: usize,
    /// How many threads wait.
    n_waiting: usize,
    /// How many runs came when `room` others were not taken yet.
    n_overflowed: u64,
    /// No more runs are taken: they are dropped as they come, and their descriptors closed.
    is_closed: bool,
}

/// Runs that have ended, in the order in which they did.
#[derive(Default)]
pub(crate) struct Channel {
    state: Mutex<ChannelState>,
    parker: Parker,
    room: usize,
}

impl Channel {
    /// A channel that counts the runs that come while `room` others are there already.
    pub(crate) fn with_room(room: usize) -> Self {
        Self { room, ..Self::default() }
    }

    /// How many runs found no room.
    pub(crate) fn n_overflowed(&self) -> u64 {
        self.with(|state| state.n_overflowed)
    }

    fn with<R>(&self, use_state: impl FnOnce(&mut ChannelState) -> R) -> R {
        use_state(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Take up to `n_max` runs.
    pub(crate) fn take(&self, n_max: usize) -> VecDeque<Box<Run>> {
        self.with(|state| {
            if state.ended.len() <= n_max {
                return std::mem::take(&mut state.ended);
            }
            state.ended.drain(..n_max).collect()
        })
    }

    /// Close the channel; the runs that are there come back, to be dropped.
    pub(crate) fn close(&self) -> VecDeque<Box<Run>> {
        let (runs, waiters) = self.with(|state| {
            state.is_closed = true;
            (std::mem::take(&mut state.ended), std::mem::take(&mut state.waiters))
        });
        // Waiters find that the channel is closed.
        for (_, completions, token) in waiters {
            completions.notify(token);
        }
        self.parker.unpark(WakeReason::WAKE);
        runs
    }

    /// Wait, without the GIL, until there are `n_wanted` runs; `false`: the deadline has passed.
    ///
    /// Raises what a signal handler raises.
    pub(crate) fn wait(
        &self,
        py: Python<'_>,
        n_wanted: usize,
        deadline_ns: Option<u64>,
    ) -> PyResult<bool> {
        self.with(|state| state.n_waiting += 1);
        let waited = self.wait_here(py, n_wanted, deadline_ns);
        let is_shared = self.with(|state| {
            state.n_waiting -= 1;
            state.n_waiting > 0
        });
        if is_shared {
            // All waiting threads share one parker: the one that it has woken wakes the next.
            self.parker.unpark(WakeReason::WAKE);
        }
        waited
    }

    fn wait_here(
        &self,
        py: Python<'_>,
        n_wanted: usize,
        deadline_ns: Option<u64>,
    ) -> PyResult<bool> {
        loop {
            // Before each wait: a signal may have come before the first, and ends the later ones.
            py.check_signals()?;
            let has_enough = self.with(|state| {
                let is_alone = state.n_waiting < 2;
                state.n_wanted = if is_alone { n_wanted } else { state.n_wanted.min(n_wanted) };
                state.is_closed || state.ended.len() >= n_wanted
            });
            if has_enough {
                return Ok(true);
            }
            let patience = match deadline_ns.map(|it| it.saturating_sub(clock::now_ns())) {
                Some(0) => return Ok(false),
                patience => patience.map(Duration::from_nanos),
            };
            py.detach(|| self.parker.park(WakeReason::WAKE, patience));
        }
    }

    /// Have a loop notified when there are `n_wanted` runs; `false`: there are already.
    pub(crate) fn notify_when(
        &self,
        completions: &Arc<CompletionQueue>,
        token: u64,
        n_wanted: usize,
    ) -> bool {
        self.with(|state| {
            if state.is_closed || state.ended.len() >= n_wanted {
                return false;
            }
            state.waiters.push((n_wanted, Arc::clone(completions), token));
            true
        })
    }
}

impl CompletionSink for Channel {
    fn deliver(&self, runs: &mut Vec<Box<Run>>) {
        let (has_enough, waiters) = self.with(|state| {
            if state.is_closed {
                // The caller drops them.
                return (false, Vec::new());
            }
            let n_full = (state.ended.len() + runs.len()).saturating_sub(self.room);
            state.n_overflowed += n_full.min(runs.len()) as u64;
            state.ended.extend(runs.drain(..));
            let n_ended = state.ended.len();
            let waiters: Vec<_> = state.waiters.extract_if(.., |(n, ..)| *n <= n_ended).collect();
            (state.n_waiting > 0 && n_ended >= state.n_wanted, waiters)
        });
        for (_, completions, token) in waiters {
            completions.notify(token);
        }
        if has_enough {
            self.parker.unpark(WakeReason::WAKE);
        }
    }
}
