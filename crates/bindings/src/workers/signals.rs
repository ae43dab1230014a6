//! Signal handlers that a coroutine sets while the home thread is blocked: they are set with the kernel at
//! once, and with the interpreter when the home thread is back.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::prelude::*;
use threadlets_core::signals;

use crate::dispatcher::worker::Worker;
use crate::dispatcher::workers::Workers;
use crate::dispatcher::{Dispatcher, hooks};
use crate::py::error::to_python;

/// When the home thread has the role again: set interim signal handlers with the interpreter.
pub(crate) fn settle(slf: &Bound<'_, Dispatcher>, worker: &Worker) -> PyResult<()> {
    if !worker.is_home() || slf.get().workers.interim_signals.load(Relaxed) == 0 {
        return Ok(());
    }
    hooks::settle_signals(slf).map(drop)
}

/// Have a signal write its number to a descriptor.
pub(crate) fn write_number(workers: &Workers, number: i32, fd: i32) -> PyResult<()> {
    signals::write_number(number, fd).map_err(to_python)?;
    owe(workers, number);
    Ok(())
}

/// Restore the default action of a signal.
pub(crate) fn use_default(workers: &Workers, number: i32) -> PyResult<()> {
    signals::use_default(number).map_err(to_python)?;
    owe(workers, number);
    Ok(())
}

/// Pass a signal to the interpreter's handler again.
pub(crate) fn pass_to_host(workers: &Workers, number: i32) -> PyResult<()> {
    signals::pass_to_host(number).map_err(to_python)?;
    owe(workers, number);
    Ok(())
}

/// The signals whose handlers have yet to be set with the interpreter.
pub(crate) fn interim(workers: &Workers) -> Vec<i32> {
    let set = workers.interim_signals.load(Relaxed);
    (1..=64).filter(|&it| set & bit(it) != 0).collect()
}

/// Note that a signal's handler was set with the interpreter, or need not be.
pub(crate) fn end_interim(workers: &Workers, number: i32) {
    workers.interim_signals.fetch_and(!bit(number), Relaxed);
    signals::end(number);
}

/// Note that this signal's handler has yet to be set with the interpreter.
fn owe(workers: &Workers, number: i32) {
    workers.interim_signals.fetch_or(bit(number), Relaxed);
}

/// The bit of a signal in a set of signals.
fn bit(number: i32) -> u64 {
    1 << (number - 1)
}

/// Whether the interpreter's handler was called for a signal that a loop no longer handles.
#[pyfunction]
pub(crate) fn take_passed(number: i32) -> bool {
    signals::take_passed(number)
}
