//! Signal handlers that a coroutine sets while the home thread is blocked: they are set with the kernel at
//! once, and with the interpreter when the home thread is back.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::intern;
use pyo3::prelude::*;
use threadlets_core::signals;

use crate::dispatcher::Dispatcher;
use crate::error::to_python;
use crate::worker::Worker;
use crate::workers::Workers;

impl Workers {
    /// When the home thread has the role again: set interim signal handlers with the interpreter.
    pub(crate) fn settle_signals(slf: &Bound<'_, Dispatcher>, worker: &Worker) -> PyResult<()> {
        if !worker.is_home() || slf.get().workers.interim_signals.load(Relaxed) == 0 {
            return Ok(());
        }
        slf.call_method0(intern!(slf.py(), "_settle_signals")).map(drop)
    }

    /// Note that this signal's handler has yet to be set with the interpreter.
    fn owe_signal(&self, number: i32) {
        self.interim_signals.fetch_or(bit(number), Relaxed);
    }
}

/// The bit of a signal in a set of signals.
fn bit(number: i32) -> u64 {
    1 << (number - 1)
}

#[pymethods]
impl Dispatcher {
    /// Have a signal write its number to a descriptor.
    fn _write_signal(&self, number: i32, fd: i32) -> PyResult<()> {
        signals::write_number(number, fd).map_err(to_python)?;
        self.workers.owe_signal(number);
        Ok(())
    }

    /// Restore the default action of a signal.
    fn _default_signal(&self, number: i32) -> PyResult<()> {
        signals::use_default(number).map_err(to_python)?;
        self.workers.owe_signal(number);
        Ok(())
    }

    /// Pass a signal to the interpreter's handler again; `take_passed` tells that handler that it was.
    fn _pass_signal(&self, number: i32) -> PyResult<()> {
        signals::pass_to_host(number).map_err(to_python)?;
        self.workers.owe_signal(number);
        Ok(())
    }

    /// The signals whose handlers have yet to be set with the interpreter.
    fn _interim_signals(&self) -> Vec<i32> {
        let set = self.workers.interim_signals.load(Relaxed);
        (1..=64).filter(|&it| set & bit(it) != 0).collect()
    }

    /// Whether a signal still has the action that this loop has set with the kernel.
    fn _is_interim(&self, number: i32) -> bool {
        signals::is_interim(number)
    }

    /// Note that a signal's handler was set with the interpreter, or need not be.
    fn _end_interim(&self, number: i32) {
        self.workers.interim_signals.fetch_and(!bit(number), Relaxed);
        signals::end(number);
    }

    /// Stop signals from writing to a descriptor that is about to be closed.
    fn _forget_signals(&self, fd: i32) {
        signals::forget(fd);
    }
}

/// Whether the interpreter's handler was called for a signal that a loop no longer handles.
#[pyfunction]
pub(crate) fn take_passed(number: i32) -> bool {
    signals::take_passed(number)
}
