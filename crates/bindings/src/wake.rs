//! How a thread ends the dispatcher's wait for events.
//!
//! `sleeping` is set with the GIL held, before the dispatcher gives it up to wait. A thread that has queued something
//! wakes it then, if it can without the GIL: the dispatcher needs that as soon as it is awake.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::prelude::*;

use crate::dispatcher::Dispatcher;
use crate::error::to_python;

impl Dispatcher {
    /// The role was taken while the dispatcher waited for events: end its wait.
    pub(crate) fn recall_from_poll(&self, py: Python<'_>) {
        // A closed loop has no poller, and nobody who waits for it.
        if let Ok(poller) = self.poller(py) {
            poller.recall();
            if self.sleeping.load(Relaxed) {
                // Also if another thread is about to.
                let _ = poller.wake();
            }
        }
        self.sleeping.store(false, Relaxed);
    }

    /// End the present or the next wait for events, unless the loop is closed.
    pub(crate) fn wake_poller(&self, py: Python<'_>) -> PyResult<()> {
        if self.check_closed().is_err() {
            return Ok(());
        }
        self.poller(py)?.wake().map_err(to_python)
    }

    /// Be the thread that wakes the dispatcher, once this thread has given the GIL up; `false`: it does not wait, or
    /// another thread does that. What is queued meanwhile need not wake it.
    pub(crate) fn claim_wake(&self) -> bool {
        self.sleeping.load(Relaxed) && !self.is_being_woken.swap(true, Relaxed)
    }

    /// End the dispatcher's wait, if it waits: something was queued.
    pub(crate) fn wake_if_sleeping(&self, py: Python<'_>) -> PyResult<()> {
        if self.sleeping.load(Relaxed) && !self.is_being_woken.load(Relaxed) {
            self.poller(py)?.wake().map_err(to_python)?;
        }
        Ok(())
    }

    /// The same without the GIL, as the last thing that a method does: the dispatcher needs the GIL as
    /// soon as it is awake, and would have to sleep again if this thread still held it. Other threads
    /// need not do it as well.
    pub(crate) fn wake_if_sleeping_detached(&self, py: Python<'_>) -> PyResult<()> {
        if self.claim_wake() {
            let poller = self.poller(py)?;
            py.detach(|| poller.wake()).map_err(to_python)?;
        }
        Ok(())
    }
}
