//! Signal handlers that a coroutine sets while the home thread is blocked: the kernel is told at once, the
//! interpreter when the home thread is back.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::intern;
use pyo3::prelude::*;
use threadlets_core::signals;

use crate::dispatcher::Dispatcher;
use crate::error::to_python;
use crate::worker::Worker;
use crate::workers::Workers;

impl Workers {
    /// The home thread has the role again: let it tell the interpreter of signal handlers.
    pub(crate) fn settle_signals(slf: &Bound<'_, Dispatcher>, worker: &Worker) -> PyResult<()> {
        if !worker.is_home() || slf.get().workers.interim_signals.load(Relaxed) == 0 {
            return Ok(());
        }
        slf.call_method0(intern!(slf.py(), "_settle_signals")).map(drop)
    }

    /// The interpreter is to be told of this signal.
    fn owe_signal(&self, number: i32) {
        self.interim_signals.fetch_or(bit(number), Relaxed);
    }
}

/// A signal in a set of them.
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

    /// Have a signal do what it does without a handler.
    fn _default_signal(&self, number: i32) -> PyResult<()> {
        signals::use_default(number).map_err(to_python)?;
        self.workers.owe_signal(number);
        Ok(())
    }

    /// Have the interpreter's handler called again, which can ask `take_passed`.
    fn _pass_signal(&self, number: i32) -> PyResult<()> {
        signals::pass_to_host(number).map_err(to_python)?;
        self.workers.owe_signal(number);
        Ok(())
    }

    /// The signals of which the interpreter is to be told.
    fn _interim_signals(&self) -> Vec<i32> {
        let set = self.workers.interim_signals.load(Relaxed);
        (1..=64).filter(|&it| set & bit(it) != 0).collect()
    }

    /// Whether a signal still does what this loop has told the kernel.
    fn _is_interim(&self, number: i32) -> bool {
        signals::is_interim(number)
    }

    /// The interpreter has been told of a signal, or need not be.
    fn _end_interim(&self, number: i32) {
        self.workers.interim_signals.fetch_and(!bit(number), Relaxed);
        signals::end(number);
    }

    /// Have no signal write to a descriptor that is about to be closed.
    fn _forget_signals(&self, fd: i32) {
        signals::forget(fd);
    }
}

/// Whether the interpreter's handler was called for a signal that a loop handles no more.
#[pyfunction]
pub(crate) fn take_passed(number: i32) -> bool {
    signals::take_passed(number)
}
