//! Waiting for a callback that runs: `cancel()` of a handle of `call_soon_threadsafe` does, since CPython 3.14.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use pyo3::ffi;
use pyo3::prelude::*;

use crate::dispatcher::Dispatcher;
use crate::interpreter::this_thread;
use crate::runner::Runner;

/// How often the main thread looks at signals while it waits.
const LOOK: Duration = Duration::from_millis(50);

// One for all: who waits here looks for itself whether it was meant.
static ENDED: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());

/// Whether a callback runs, and where. All but waiting is done with the GIL.
#[derive(Debug)]
pub(crate) struct Running {
    /// The loop that runs the callback; null: none does.
    dispatcher: AtomicPtr<ffi::PyObject>,
    /// The thread in which it began.
    thread: AtomicU64,
    is_waited_for: AtomicBool,
    /// Others may wait.
    is_shared: bool,
}

impl Running {
    pub(crate) fn new(is_shared: bool) -> Self {
        Self {
            dispatcher: AtomicPtr::new(null_mut()),
            thread: AtomicU64::new(0),
            is_waited_for: AtomicBool::new(false),
            is_shared,
        }
    }

    /// Whether others may wait.
    pub(crate) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Run the callback.
    #[inline]
    pub(crate) fn during<R>(&self, slf: &Bound<'_, Dispatcher>, run: impl FnOnce() -> R) -> R {
        if !self.is_shared {
            return run();
        }
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

    /// Wait until the callback does not run any more, without the GIL.
    ///
    /// Whoever it runs for does not wait: code in the callback, and code of the same loop. That goes on in another
    /// thread while a function blocks the callback.
    pub(crate) fn wait(&self, py: Python<'_>) -> PyResult<()> {
        loop {
            let dispatcher = self.dispatcher.load(Relaxed);
            if dispatcher.is_null() || self.thread.load(Relaxed) == this_thread() {
                return Ok(());
            }
            let is_its = |runner: &Runner| runner.dispatcher(py).as_ptr() == dispatcher;
            if Runner::with_current(|runner| runner.is_some_and(is_its)) {
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
