//! What programs do themselves that a tick does otherwise: run a request, wait for events, start a timer through
//! methods of their own.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use threadlets_core::fp;

use super::request_handle::RequestHandle;
use super::{poll, running};
use crate::callbacks::handles::{Handle, TimerHandle};
use crate::dispatcher::request::Request;
use crate::dispatcher::{Dispatcher, Source, replaced};
use crate::http::server::HttpServer;
use crate::net::stream::Stream;
use crate::py::cast::known;
use crate::task::current;
use crate::workers::{home, role, shutdown};

/// A descriptor, and whether it is readable and writable.
pub(crate) type Occurred = (i32, bool, bool);

/// Run a request outside of a tick, on the thread that runs the loop; if none does, on this one.
fn run_by_hand(slf: &Bound<'_, Dispatcher>, request: Request) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    home::at_home(slf, |worker| {
        let outside = fp::State::read();
        fp::State::DEFAULT.restore();
        this.n_requests.store(this.n_requests() + 1, Relaxed);
        let ran = current::kept(slf, || {
            let ran = running::run(slf, request);
            shutdown::end_if_over(slf)?;
            if !this.workers.keeps_role(py, worker) {
                role::get_role_back(slf, worker)?;
            }
            ran
        });
        outside.restore();
        ran
    })
}

/// Run a request of the running loop outside of a tick.
fn run_on_running_loop(py: Python<'_>, request: Request) -> PyResult<()> {
    let running = py.import("asyncio")?.call_method0("get_running_loop")?;
    run_by_hand(running.cast::<Dispatcher>()?, request)
}

/// Start a timer through the replaced methods.
#[cold]
pub(crate) fn call_later<'py>(
    slf: &Bound<'py, Dispatcher>,
    delay: f64,
    callback: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    context: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    let when = (replaced::now(slf)? + delay).into_pyobject(py)?.into_any();
    let mut all = vec![when, callback.clone()];
    all.extend(args);
    let kwargs = PyDict::new(py);
    kwargs.set_item(intern!(py, "context"), context)?;
    slf.call_method(intern!(py, "call_at"), PyTuple::new(py, all)?, Some(&kwargs))
}

/// Wait for events, at most for `timeout` seconds (None: for ever), and queue what they make ready.
/// Return the descriptors, each with whether it is readable and writable, and whether the wait was
/// ended by another cause.
pub(crate) fn select(
    slf: &Bound<'_, Dispatcher>,
    timeout: Option<f64>,
) -> PyResult<(Vec<Occurred>, bool)> {
    let py = slf.py();
    let this = slf.get();
    if timeout.is_some_and(f64::is_nan) {
        return Err(PyValueError::new_err("timeout is NaN; it is a time in seconds"));
    }
    let mut ready = Vec::new();
    let mut is_woken = false;
    home::at_home(slf, |worker| {
        let patience = match timeout {
            // A time that a `Duration` cannot hold is no limit.
            Some(timeout) => Duration::try_from_secs_f64(timeout.max(0.0)).ok(),
            None => None,
        };
        // A request that was queued since the caller computed the time-out would not end the wait.
        let has_work = this.queues.with(py, |queues| queues.has_work());
        is_woken = has_work && patience != Some(Duration::ZERO);
        let patience = if has_work { Some(Duration::ZERO) } else { patience };
        let waited = poll::wait_and_deliver(slf, worker, patience, |source, readiness| {
            let fd = match source {
                Source::Stream(stream) => known::<Stream>(stream.bind(py)).get().fd(py),
                Source::Http(server, number) => {
                    known::<HttpServer>(server.bind(py)).get().fd(py, *number)
                }
                Source::Descriptor(fd) => *fd,
            };
            ready.push((fd, readiness.readable, readiness.writable));
        })?;
        is_woken |= waited.is_woken;
        if !waited.is_held {
            role::get_role_back(slf, worker)?;
        }
        py.check_signals()
    })?;
    Ok((ready, is_woken))
}

#[pymethods]
impl Handle {
    /// Run the callback on the running loop now, without the ready queue.
    fn _run(slf: &Bound<'_, Self>) -> PyResult<()> {
        run_on_running_loop(slf.py(), Request::Callback(slf.clone().into_any().unbind()))
    }
}

#[pymethods]
impl TimerHandle {
    /// Run the callback now, and remove its timer.
    fn _run(slf: &Bound<'_, Self>) -> PyResult<()> {
        match slf.get().stop_timer(slf.py()) {
            Some(dispatcher) => {
                let request = Request::Timer(slf.clone().into_any().unbind());
                run_by_hand(dispatcher.bind(slf.py()), request)
            }
            None => Ok(()),
        }
    }
}

#[pymethods]
impl RequestHandle {
    /// Run the request now, outside of a tick; do nothing if it has run or was cancelled.
    fn _run(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        match slf.get().take(py) {
            Some(request) => run_by_hand(slf.get().dispatcher.bind(py), request),
            None => Ok(()),
        }
    }
}
