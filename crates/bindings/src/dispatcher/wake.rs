//! How a thread ends the dispatcher's wait for events.
//!
//! `sleeping` is set with the GIL held, before the dispatcher releases it to wait. A thread that queues a
//! request while it is set wakes the dispatcher, without the GIL if it can: the dispatcher needs the GIL as
//! soon as it is awake.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::prelude::*;

use super::Dispatcher;
use crate::py::error::to_python;

impl Dispatcher {
    /// End the wait of a dispatcher from which the role was taken while it waited for events.
    pub(crate) fn end_poll_of_victim(&self, py: Python<'_>) {
        // A closed loop has no poller, and no thread waits in it.
        if let Ok(poller) = self.poller(py) {
            poller.recheck_waits();
            if self.sleeping.load(Relaxed) {
                // Even if another thread is about to wake it.
                let _ = poller.wake();
            }
        }
        self.sleeping.store(false, Relaxed);
    }

    /// End the current or the next wait for events, unless the loop is closed.
    pub(crate) fn wake_poller(&self, py: Python<'_>) -> PyResult<()> {
        if self.check_closed().is_err() {
            return Ok(());
        }
        self.poller(py)?.wake().map_err(to_python)
    }

    /// Claim to wake the dispatcher once this thread has released the GIL, so that what is queued meanwhile
    /// need not wake it; `false`: the dispatcher does not wait, or another thread has claimed it.
    pub(crate) fn claim_wake(&self) -> bool {
        self.sleeping.load(Relaxed) && !self.is_being_woken.swap(true, Relaxed)
    }

    /// End the dispatcher's wait, if it waits, after a request was queued.
    pub(crate) fn wake_if_sleeping(&self, py: Python<'_>) -> PyResult<()> {
        if self.sleeping.load(Relaxed) && !self.is_being_woken.load(Relaxed) {
            self.poller(py)?.wake().map_err(to_python)?;
        }
        Ok(())
    }

    /// As `wake_if_sleeping`, but without the GIL, and as the last thing that a method does: the dispatcher
    /// needs the GIL as soon as it is awake, and would have to sleep again if this thread still held it.
    /// Other threads need not wake it as well.
    pub(crate) fn wake_if_sleeping_detached(&self, py: Python<'_>) -> PyResult<()> {
        if self.claim_wake() {
            let poller = self.poller(py)?;
            py.detach(|| poller.wake()).map_err(to_python)?;
        }
        Ok(())
    }
}
