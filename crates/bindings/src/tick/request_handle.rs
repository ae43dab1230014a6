//! Requests as handles, for programs that read or change asyncio's private queues: the ready queue and the
//! timers.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pyo3::PyTraverseError;
use pyo3::exceptions::PyTypeError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use threadlets_core::{TimerKey, clock};

use crate::callbacks::handles::{Handle, TimerHandle};
use crate::calls::queued_call::QueuedCall;
use crate::dispatcher::Dispatcher;
use crate::dispatcher::request::Request;
use crate::net::datagrams::Datagrams;
use crate::net::stream::Stream;
use crate::py::cast::known;
use crate::py::gil_cell::GilCell;

/// The handle of a request that has none of its own: a task's step, say, or a ready connection.
#[pyclass(frozen, module = "threadlets._core", weakref)]
#[derive(Debug)]
pub(crate) struct RequestHandle {
    pub(super) dispatcher: Py<Dispatcher>,
    request: GilCell<Option<Request>>,
    subject: Py<PyAny>,
    /// When the request is due, in seconds of the loop's time, and the key of its timer.
    timer: Option<(f64, TimerKey)>,
    cancelled: AtomicBool,
}

impl RequestHandle {
    fn new(
        slf: &Bound<'_, Dispatcher>,
        subject: Bound<'_, PyAny>,
        timer: Option<(f64, TimerKey)>,
    ) -> PyResult<Py<Self>> {
        let handle = Self {
            dispatcher: slf.clone().unbind(),
            request: GilCell::new(None),
            subject: subject.unbind(),
            timer,
            cancelled: AtomicBool::new(false),
        };
        Py::new(slf.py(), handle)
    }

    /// Take the request out; the caller has to run it.
    pub(crate) fn take(&self, py: Python<'_>) -> Option<Request> {
        if let Some((_, key)) = self.timer {
            let queues = &self.dispatcher.get().queues;
            return queues.with(py, |queues| queues.cancel_timer(key));
        }
        self.request.with(py, Option::take)
    }

    pub(crate) fn subject<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.subject.bind(py).clone()
    }
}

#[pymethods]
impl RequestHandle {
    /// Cancel the request.
    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        self.cancelled.store(true, Relaxed);
        self.take(py).map_or(Ok(()), |request| abandon(py, request))
    }

    /// Whether `cancel()` was called.
    fn cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    /// The loop's time, in seconds, at which the request is due; None if it is ready.
    fn when(&self) -> Option<f64> {
        self.timer.map(|(when, _)| when)
    }

    #[getter]
    fn _when(&self) -> Option<f64> {
        self.when()
    }

    #[getter]
    fn _cancelled(&self) -> bool {
        self.cancelled()
    }

    /// The task, protocol or function that the request runs; a name if it is the loop's own.
    #[getter]
    fn _callback<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.subject(py)
    }

    #[getter]
    fn _args<'py>(&self, py: Python<'py>) -> Bound<'py, PyTuple> {
        PyTuple::empty(py)
    }

    #[getter]
    fn _context<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.subject(py).getattr_opt(intern!(py, "_context"))
    }

    fn __lt__(&self, other: &Bound<'_, PyAny>) -> PyResult<bool> {
        let theirs: f64 = other.getattr(intern!(other.py(), "_when"))?.extract()?;
        Ok(self.when().is_some_and(|when| when < theirs))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<RequestHandle {}>", self.subject(py).repr()?))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.dispatcher)?;
        visit.call(&self.subject)?;
        self.request
            .traverse(&visit, |it| it.as_ref().map_or(Ok(()), |request| request.traverse(&visit)))
    }

    fn __clear__(&self, py: Python<'_>) {
        drop(self.request.with(py, Option::take));
    }
}

/// What debug mode names a request by: a task, a handle, a protocol, a function, or a string.
pub(crate) fn subject<'py>(py: Python<'py>, request: &Request) -> Bound<'py, PyAny> {
    let subject = match request {
        Request::Step(task) => Some(task.bind(py).clone()),
        Request::Done(callback) => Some(callback.callable.bind(py).clone()),
        Request::Foreign(handle) => Some(handle.bind(py).clone()),
        Request::Stream(stream) => known::<Stream>(stream.bind(py)).get().protocol(py),
        Request::Datagrams(it) => Some(known::<Datagrams>(it.bind(py)).get().protocol(py)),
        Request::Call(call) => known::<QueuedCall>(call.bind(py)).get().function(py),
        Request::Held(handle) => Some(known::<RequestHandle>(handle.bind(py)).get().subject(py)),
        _ => None,
    };
    subject.unwrap_or_else(|| PyString::new(py, &format!("{request:?}")).into_any())
}

/// Cancel a request.
pub(crate) fn abandon(py: Python<'_>, request: Request) -> PyResult<()> {
    match request {
        Request::Callback(handle) => drop(known::<Handle>(handle.bind(py)).get().take(py)),
        Request::Timer(handle) => drop(known::<TimerHandle>(handle.bind(py)).get().take(py)),
        Request::Call(call) => known::<QueuedCall>(call.bind(py)).get().abandon(py)?,
        Request::Held(handle) => {
            if let Some(request) = known::<RequestHandle>(handle.bind(py)).get().take(py) {
                abandon(py, request)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// The handle that a request already has.
pub(super) fn handle_of(py: Python<'_>, request: &Request) -> Option<Py<PyAny>> {
    Some(match request {
        Request::Callback(handle)
        | Request::Timer(handle)
        | Request::Foreign(handle)
        | Request::Held(handle) => handle.clone_ref(py),
        _ => return None,
    })
}

/// A request with its handle; one without gets a handle that holds it.
fn with_handle(slf: &Bound<'_, Dispatcher>, request: Request) -> PyResult<(Request, Py<PyAny>)> {
    let py = slf.py();
    if let Some(handle) = handle_of(py, &request) {
        return Ok((request, handle));
    }
    let handle = RequestHandle::new(slf, subject(py, &request), None)?;
    drop(handle.get().request.with(py, |it| it.replace(request)));
    Ok((Request::Held(handle.clone_ref(py).into_any()), handle.into_any()))
}

/// The key of the timer that a handle stands for.
fn timer_of(handle: &Bound<'_, PyAny>) -> PyResult<Option<TimerKey>> {
    let py = handle.py();
    if let Ok(timer) = handle.cast::<TimerHandle>() {
        return Ok(timer.get().key(py));
    }
    if let Ok(held) = handle.cast::<RequestHandle>() {
        return Ok(held.get().timer.map(|(_, key)| key));
    }
    let key = handle.getattr_opt(intern!(py, "_key"))?;
    key.map(|it| it.extract().map(TimerKey::from_bits)).transpose()
}

/// The handles of the requests that are ready, in order.
pub(crate) fn ready_handles(slf: &Bound<'_, Dispatcher>) -> PyResult<Vec<Py<PyAny>>> {
    let handles = take_ready(slf)?;
    put_ready(slf, handles.iter().map(|it| it.bind(slf.py()).clone()).collect())?;
    Ok(handles)
}

/// Take all requests out of the ready queue, as handles.
pub(crate) fn take_ready(slf: &Bound<'_, Dispatcher>) -> PyResult<Vec<Py<PyAny>>> {
    let py = slf.py();
    let requests = slf.get().queues.with(py, |queues| std::mem::take(queues.ready_mut()));
    requests.into_iter().map(|it| Ok(with_handle(slf, it)?.1)).collect()
}

/// Queue handles before the requests that are ready.
pub(crate) fn put_ready(
    slf: &Bound<'_, Dispatcher>,
    handles: Vec<Bound<'_, PyAny>>,
) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let since = this.queues.with(py, |queues| std::mem::take(queues.ready_mut()));
    let queued = handles.iter().try_for_each(|handle| queue_handle(slf, handle));
    this.queues.with(py, |queues| queues.ready_mut().extend(since));
    queued
}

/// Take the first request that is ready, as a handle.
pub(crate) fn pop_ready(slf: &Bound<'_, Dispatcher>) -> PyResult<Option<Py<PyAny>>> {
    let request = slf.get().queues.with(slf.py(), |queues| queues.pop_ready());
    request.map(|it| Ok(with_handle(slf, it)?.1)).transpose()
}

/// Queue the request that a handle stands for; a timer becomes due at once.
///
/// Raises:
///     TypeError: the object is not a handle.
pub(crate) fn queue_handle(slf: &Bound<'_, Dispatcher>, handle: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let timed =
        timer_of(handle)?.and_then(|key| this.queues.with(py, |queues| queues.cancel_timer(key)));
    let request = match timed {
        Some(request) => request,
        None => {
            if handle.is_instance_of::<Handle>() {
                Request::Callback(handle.clone().unbind())
            } else if handle.is_instance_of::<TimerHandle>() {
                Request::Timer(handle.clone().unbind())
            } else if handle.is_instance_of::<RequestHandle>() {
                Request::Held(handle.clone().unbind())
            } else if handle.hasattr(intern!(py, "_run"))? {
                Request::Foreign(handle.clone().unbind())
            } else {
                let handle = handle.repr()?;
                return Err(PyTypeError::new_err(format!(
                    "{handle} is not a handle; use loop.call_soon() to queue a callback"
                )));
            }
        }
    };
    this.submit(py, request)
}

/// The handles of the timers, earliest first.
pub(crate) fn timer_handles(slf: &Bound<'_, Dispatcher>) -> PyResult<Vec<Py<PyAny>>> {
    let py = slf.py();
    let mut timers: Vec<_> = slf.get().queues.with(py, |queues| {
        let shown = queues.timers().map(|(deadline_ns, key, request)| {
            let sleep = match request {
                Request::Sleep(sleep) => Some(sleep.clone_ref(py)),
                _ => None,
            };
            (deadline_ns, key, handle_of(py, request), sleep)
        });
        shown.collect()
    });
    timers.sort_by_key(|(deadline_ns, key, ..)| (*deadline_ns, key.to_bits()));
    let shown = timers.into_iter().filter_map(|(deadline_ns, key, handle, sleep)| {
        let sleeping = |sleep: Py<PyAny>| {
            let timer = Some((clock::to_seconds(deadline_ns), key));
            Ok(RequestHandle::new(slf, sleep.into_bound(py), timer)?.into_any())
        };
        handle.map(Ok).or_else(|| sleep.map(sleeping))
    });
    shown.collect()
}

/// Start a timer for a handle that the program has made.
pub(crate) fn start_timer(dispatcher: &Dispatcher, handle: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = handle.py();
    let when: f64 = handle.getattr(intern!(py, "_when"))?.extract()?;
    let request = Request::Foreign(handle.clone().unbind());
    dispatcher.queues.with(py, |queues| queues.submit_at(clock::deadline_ns(when), request));
    dispatcher.wake_if_sleeping(py)
}

/// Cancel the timer of a handle.
pub(crate) fn stop_timer(dispatcher: &Dispatcher, handle: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Some(key) = timer_of(handle)? {
        dispatcher.forget_timer(handle.py(), key);
    }
    Ok(())
}
