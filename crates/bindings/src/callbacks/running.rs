//! Waits for a running callback, as `cancel()` of `call_soon_threadsafe`'s handles does since CPython 3.14.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use pyo3::ffi;
use pyo3::prelude::*;

use crate::dispatcher::Dispatcher;
use crate::dispatcher::worker::Worker;
use crate::py::interpreter::this_thread;

/// How often the main thread checks for signals while it waits.
const LOOK: Duration = Duration::from_millis(50);

// Shared by all callbacks: a thread that wakes checks whether its own callback has ended.
static ENDED: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());

/// Whether a callback runs, and where. Everything but the wait itself is done with the GIL.
#[derive(Debug, Default)]
pub(crate) struct Running {
    /// The loop that runs the callback; null while it does not run.
    dispatcher: AtomicPtr<ffi::PyObject>,
    /// The thread in which the callback began.
    thread: AtomicU64,
    is_waited_for: AtomicBool,
}

impl Running {
    /// Run the callback.
    pub(crate) fn during<R>(&self, slf: &Bound<'_, Dispatcher>, run: impl FnOnce() -> R) -> R {
        self.thread.store(this_thread(), Relaxed);
        self.dispatcher.store(slf.as_ptr(), Relaxed);
        let result = run();
        self.dispatcher.store(null_mut(), Relaxed);
        if self.is_waited_for.swap(false, Relaxed) {
            let _guard = ENDED.0.lock().unwrap_or_else(PoisonError::into_inner);
            ENDED.1.notify_all();
        }
        result
    }

    /// Wait, without the GIL, until the callback has ended.
    ///
    /// Returns at once in the callback itself, and in other code of the same loop, which goes on in another
    /// thread while a function blocks the callback.
    pub(crate) fn wait(&self, py: Python<'_>) -> PyResult<()> {
        loop {
            let dispatcher = self.dispatcher.load(Relaxed);
            if dispatcher.is_null() || self.thread.load(Relaxed) == this_thread() {
                return Ok(());
            }
            let is_its = |worker: &Worker| worker.dispatcher(py).as_ptr() == dispatcher;
            if Worker::with_current(|worker| worker.is_some_and(is_its)) {
                return Ok(());
            }
            self.is_waited_for.store(true, Relaxed);
            py.detach(|| {
                let guard = ENDED.0.lock().unwrap_or_else(PoisonError::into_inner);
                if !self.dispatcher.load(Relaxed).is_null() {
                    drop(ENDED.1.wait_timeout(guard, LOOK));
                }
            });
            py.check_signals()?;
        }
    }
}
