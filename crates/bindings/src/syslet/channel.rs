//! Channels: how ended runs come to a sweep or a completion ring, which waits for many.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use threadlets_core::clock;
use threadlets_core::syslet::{CompletionSink, Run};
use threadlets_core::takeover::{Parker, WakeReason};

use crate::dispatcher::completion_queue::CompletionQueue;

/// How many forks have led to this process: a channel that was made before the last one is the parent's.
static N_FORKS: AtomicU32 = AtomicU32::new(0);

/// In the child of a fork: note that the channels which exist are the parent's.
pub(crate) fn disown() {
    N_FORKS.fetch_add(1, Relaxed);
}

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
pub(crate) struct Channel {
    state: Mutex<ChannelState>,
    parker: Parker,
    room: usize,
    /// `N_FORKS` when it was made.
    n_forks: u32,
}

impl Default for Channel {
    fn default() -> Self {
        Self::with_room(0)
    }
}

impl Channel {
    /// A channel that counts the runs that come while `room` others are there already.
    pub(crate) fn with_room(room: usize) -> Self {
        let n_forks = N_FORKS.load(Relaxed);
        Self { state: Mutex::default(), parker: Parker::default(), room, n_forks }
    }

    /// How many runs found no room.
    pub(crate) fn n_overflowed(&self) -> u64 {
        self.with(|state| state.n_overflowed).unwrap_or(0)
    }

    /// Use the state; `None`: it is in use for good. A thread of the parent's, which the fork has not copied,
    /// had locked it.
    fn with<R>(&self, use_state: impl FnOnce(&mut ChannelState) -> R) -> Option<R> {
        let mut state = if self.n_forks == N_FORKS.load(Relaxed) {
            self.state.lock().unwrap_or_else(PoisonError::into_inner)
        } else {
            match self.state.try_lock() {
                Ok(state) => state,
                Err(TryLockError::Poisoned(state)) => state.into_inner(),
                Err(TryLockError::WouldBlock) => return None,
            }
        };
        Some(use_state(&mut state))
    }

    /// Take up to `n_max` runs.
    pub(crate) fn take(&self, n_max: usize) -> VecDeque<Box<Run>> {
        self.with(|state| {
            if state.ended.len() <= n_max {
                return std::mem::take(&mut state.ended);
            }
            state.ended.drain(..n_max).collect()
        })
        .unwrap_or_default()
    }

    /// Close the channel; the runs that are there come back, to be dropped.
    pub(crate) fn close(&self) -> VecDeque<Box<Run>> {
        let closed = self.with(|state| {
            state.is_closed = true;
            (std::mem::take(&mut state.ended), std::mem::take(&mut state.waiters))
        });
        let Some((runs, waiters)) = closed else { return VecDeque::new() };
        // Waiters find that the channel is closed.
        for (_, completions, token) in waiters {
            completions.notify(token);
        }
        self.parker.unpark(WakeReason::WAKE);
        runs
    }

    /// Wait, without the GIL, until there are `n_wanted` runs; `false`: the deadline has passed.
    ///
    /// Raises what a signal handler raises, and in the child of a fork a RuntimeError.
    pub(crate) fn wait(
        &self,
        py: Python<'_>,
        n_wanted: usize,
        deadline_ns: Option<u64>,
    ) -> PyResult<bool> {
        self.with(|state| state.n_waiting += 1).ok_or_else(inherited)?;
        let waited = self.wait_here(py, n_wanted, deadline_ns);
        let is_shared = self.with(|state| {
            state.n_waiting -= 1;
            state.n_waiting > 0
        });
        if is_shared == Some(true) {
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
            if has_enough.ok_or_else(inherited)? {
                return Ok(true);
            }
            let patience = match deadline_ns.map(|it| it.saturating_sub(clock::now_ns())) {
                Some(0) => return Ok(false),
                patience => patience.map(Duration::from_nanos),
            };
            py.detach(|| self.parker.park(WakeReason::WAKE, patience));
        }
    }

    /// Have a loop notified when there are `n_wanted` runs; `false`: there are already. Raises as `wait` does.
    pub(crate) fn notify_when(
        &self,
        completions: &Arc<CompletionQueue>,
        token: u64,
        n_wanted: usize,
    ) -> PyResult<bool> {
        self.with(|state| {
            if state.is_closed || state.ended.len() >= n_wanted {
                return false;
            }
            state.waiters.push((n_wanted, Arc::clone(completions), token));
            true
        })
        .ok_or_else(inherited)
    }
}

impl CompletionSink for Channel {
    fn deliver(&self, runs: &mut Vec<Box<Run>>) {
        let delivered = self.with(|state| {
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
        let (has_enough, waiters) = delivered.unwrap_or_default();
        for (_, completions, token) in waiters {
            completions.notify(token);
        }
        if has_enough {
            self.parker.unpark(WakeReason::WAKE);
        }
    }
}

/// The error for a wait in the child of a fork.
fn inherited() -> PyErr {
    PyRuntimeError::new_err(
        "the ring or the sweep was made before a fork: its programs run in the parent process; make \
         another one in the child",
    )
}
