//! Queues callbacks, and starts timers for them: `call_soon`, `call_at`.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use threadlets_core::{clock, fp};

use super::handles::{Due, Handle, TimerHandle};
use crate::dispatcher::request::Request;
use crate::dispatcher::{Dispatcher, hooks};
use crate::task::callback::Callback;

/// Make a handle in debug mode: its callback is checked, and the place of the call is recorded.
#[cold]
fn debug_handle<'py>(
    slf: &Bound<'py, Dispatcher>,
    when: Option<f64>,
    callback: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    context: Option<&Bound<'py, PyAny>>,
    method: &str,
) -> PyResult<Bound<'py, PyAny>> {
    // See `Future::remember_source`.
    fp::FlagBits::preserving(|| {
        hooks::make_debug_handle(slf, when, callback, args, context, method)
    })
}

/// Queue a callback, for `method` of the loop; returns its handle.
pub(crate) fn submit<'py>(
    slf: &Bound<'py, Dispatcher>,
    callback: Bound<'py, PyAny>,
    args: Bound<'py, PyTuple>,
    context: Option<Bound<'py, PyAny>>,
    method: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    let this = slf.get();
    this.check_closed()?;
    let (handle, request) = if this.is_debug() {
        let handle = debug_handle(slf, None, &callback, &args, context.as_ref(), method)?;
        let request = Request::Foreign(handle.clone().unbind());
        (handle, request)
    } else {
        let callback = Callback::new(callback, args, context)?;
        let is_shared = cfg!(Py_3_14) && method == "call_soon_threadsafe";
        let handle = Bound::new(py, Handle::new(callback, is_shared))?;
        let request = Request::Callback(handle.clone().into_any().unbind());
        (handle.into_any(), request)
    };
    this.queues.with(py, |queues| queues.submit(request));
    this.wake_if_sleeping_detached(py)?;
    Ok(handle)
}

/// Start a timer for a callback, for `method` of the loop; returns its handle.
pub(crate) fn submit_at<'py>(
    slf: &Bound<'py, Dispatcher>,
    when: f64,
    callback: Bound<'py, PyAny>,
    args: Bound<'py, PyTuple>,
    context: Option<Bound<'py, PyAny>>,
    method: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    let this = slf.get();
    this.check_closed()?;
    let deadline_ns = clock::deadline_ns(when);
    if this.is_debug() {
        let handle = debug_handle(slf, Some(when), &callback, &args, context.as_ref(), method)?;
        let request = Request::Foreign(handle.clone().unbind());
        let key = this.queues.with(py, |queues| queues.submit_at(deadline_ns, request));
        handle.setattr(intern!(py, "_key"), key.to_bits())?;
        this.wake_if_sleeping_detached(py)?;
        return Ok(handle);
    }
    let due = Due::new(callback, args, context)?;
    let handle = Bound::new(py, TimerHandle::new(when, due, slf.clone().unbind()))?;
    let request = Request::Timer(handle.clone().into_any().unbind());
    let key = this.queues.with(py, |queues| queues.submit_at(deadline_ns, request));
    handle.get().set_key(py, key);
    this.wake_if_sleeping_detached(py)?;
    Ok(handle.into_any())
}
