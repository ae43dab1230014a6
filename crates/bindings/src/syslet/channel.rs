//! How runs that have ended come to whoever waits for many: a sweep, a completion ring.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use threadlets_core::clock;
use threadlets_core::syslet::{Outlet, Run};
use threadlets_core::takeover::{Bell, Ring};

use super::mailbox::Mailbox;

#[derive(Default)]
struct State {
    ended: VecDeque<Box<Run>>,
    /// The loop that is told when something comes, and the token by which it knows what for.
    waiter: Option<(Arc<Mailbox>, u64)>,
    /// How many runs whoever waits wants to see.
    n_wanted: usize,
    /// How many runs found more than `room` others that nobody had taken.
    n_overflowed: u64,
}

/// Runs that have ended, in the order in which they did.
#[derive(Default)]
pub(crate) struct Channel {
    state: Mutex<State>,
    bell: Bell,
    room: usize,
}

impl Channel {
    /// A channel that counts what comes while so many runs are there already.
    pub(crate) fn with_room(room: usize) -> Self {
        Self { room, ..Self::default() }
    }

    /// How many runs found no room.
    pub(crate) fn n_overflowed(&self) -> u64 {
        self.with(|state| state.n_overflowed)
    }

    fn with<R>(&self, use_state: impl FnOnce(&mut State) -> R) -> R {
        use_state(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Take up to so many runs.
    pub(crate) fn take(&self, n_max: usize) -> VecDeque<Box<Run>> {
        self.with(|state| {
            if state.ended.len() <= n_max {
                return std::mem::take(&mut state.ended);
            }
            state.ended.drain(..n_max).collect()
        })
    }

    /// Wait until there are so many runs, without the GIL; `false`: the time is up.
    ///
    /// Raises what a signal handler raises.
    pub(crate) fn wait(
        &self,
        py: Python<'_>,
        n_wanted: usize,
        deadline_ns: Option<u64>,
    ) -> PyResult<bool> {
        loop {
            let has_enough = self.with(|state| {
                state.n_wanted = n_wanted;
                state.ended.len() >= n_wanted
            });
            if has_enough {
                return Ok(true);
            }
            let patience = match deadline_ns.map(|it| it.saturating_sub(clock::now_ns())) {
                Some(0) => return Ok(false),
                patience => patience.map(Duration::from_nanos),
            };
            py.detach(|| self.bell.wait(Ring::WAKE, patience));
            py.check_signals()?;
        }
    }

    /// Have a loop told when there are so many runs; `false`: there are already.
    pub(crate) fn tell(&self, mailbox: &Arc<Mailbox>, token: u64, n_wanted: usize) -> bool {
        self.with(|state| {
            if state.ended.len() >= n_wanted {
                return false;
            }
            state.n_wanted = n_wanted;
            state.waiter = Some((Arc::clone(mailbox), token));
            true
        })
    }
}

impl Outlet for Channel {
    fn deliver(&self, runs: &mut Vec<Box<Run>>) {
        let (has_enough, waiter) = self.with(|state| {
            let n_full = (state.ended.len() + runs.len()).saturating_sub(self.room);
            state.n_overflowed += n_full.min(runs.len()) as u64;
            state.ended.extend(runs.drain(..));
            let has_enough = state.ended.len() >= state.n_wanted;
            (has_enough, if has_enough { state.waiter.take() } else { None })
        });
        if let Some((mailbox, token)) = waiter {
            mailbox.notify(token);
        }
        if has_enough {
            self.bell.ring(Ring::WAKE);
        }
    }
}
