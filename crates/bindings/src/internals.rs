//! The private parts of asyncio's loop, for programs that read or replace them: the ready queue and the
//! timers as handles that can be run by hand, a poll that can be wrapped, a clock that can be replaced.
//!
//! Virtual clocks wrap `_selector.select` and replace `time()`; nested loops bring a `_run_once` of their
//! own. `Loop` detects what was replaced and stores it here. A loop of which nothing is replaced pays a
//! comparison of two numbers per tick.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use pyo3::PyTraverseError;
use pyo3::exceptions::PyTypeError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use threadlets_core::takeover::WakeReason;
use threadlets_core::{TimerKey, clock, fp};

use crate::callback::{Handle, TimerHandle};
use crate::dispatcher::{Dispatcher, Source};
use crate::gil_cell::GilCell;
use crate::interpreter;
use crate::request::Request;
use crate::scope::sleep::Sleep;
use crate::task::current;
use crate::worker::Worker;
use crate::workers::Workers;

/// The longest wait of a poll, as in asyncio.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// `time()` is not the monotonic clock.
const CLOCK: u8 = 1;
/// The poll goes through `_selector.select` and `_process_events`.
const POLL: u8 = 2;
/// Ticks go through `_run_once`.
const TICK: u8 = 4;
/// `call_later` goes through `call_at`.
const TIMERS: u8 = 8;
/// The program holds the list of timers, and may change it.
const LIST: u8 = 16;

/// Which private parts of a loop the program has replaced.
#[derive(Debug, Default)]
pub(crate) struct Internals {
    replaced: AtomicU8,
    /// The version of the loop's class at the last check.
    class_version: AtomicU32,
}

impl Internals {
    fn has(&self, what: u8) -> bool {
        self.replaced.load(Relaxed) & what != 0
    }

    /// Whether `call_later` has to go through replaced methods.
    #[inline]
    pub(crate) fn replaces_timers(&self) -> bool {
        self.has(CLOCK | TIMERS)
    }

    /// Whether ticks are run by a replaced `_run_once`.
    #[inline]
    pub(crate) fn replaces_ticks(&self) -> bool {
        self.has(TICK)
    }

    /// Whether the poll has to go through replaced methods; called before each poll.
    #[inline]
    pub(crate) fn replaces_poll(slf: &Bound<'_, Dispatcher>) -> PyResult<bool> {
        let this = &slf.get().internals;
        if this.class_version.load(Relaxed) != interpreter::class_version(slf) {
            Self::look(slf)?;
        }
        Ok(this.has(CLOCK | POLL | LIST))
    }

    /// The loop's class has changed: have the loop detect what is replaced.
    #[cold]
    fn look(slf: &Bound<'_, Dispatcher>) -> PyResult<()> {
        slf.call_method0(intern!(slf.py(), "_detect_replaced"))?;
        // Read afterwards: the look-ups have assigned the class its version.
        slf.get().internals.class_version.store(interpreter::class_version(slf), Relaxed);
        Ok(())
    }
}

/// The loop's time, in seconds.
pub(crate) fn now(slf: &Bound<'_, Dispatcher>) -> PyResult<f64> {
    if !slf.get().internals.has(CLOCK) {
        return Ok(clock::to_seconds(clock::now_ns()));
    }
    slf.call_method0(intern!(slf.py(), "time"))?.extract()
}

/// The time up to which timers are due, by a replaced clock; `None`: the clock is the monotonic one.
#[inline]
pub(crate) fn due_ns(slf: &Bound<'_, Dispatcher>) -> PyResult<Option<u64>> {
    if !slf.get().internals.has(CLOCK) {
        return Ok(None);
    }
    let resolution: f64 = slf.getattr(intern!(slf.py(), "_clock_resolution"))?.extract()?;
    let now = now(slf)?;
    // asyncio runs timers that are due before `now + resolution`, which a float may round to `now`.
    let before_ns = clock::deadline_ns(now + resolution);
    Ok(Some(before_ns.saturating_sub(1).max(clock::deadline_ns(now))))
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
    let when = (now(slf)? + delay).into_pyobject(py)?.into_any();
    let mut all = vec![when, callback.clone()];
    all.extend(args);
    let kwargs = PyDict::new(py);
    kwargs.set_item(intern!(py, "context"), context)?;
    slf.call_method(intern!(py, "call_at"), PyTuple::new(py, all)?, Some(&kwargs))
}

/// Poll through the replaced methods; whether this worker still has the role.
#[cold]
pub(crate) fn poll(slf: &Bound<'_, Dispatcher>, worker: &Worker) -> PyResult<bool> {
    let py = slf.py();
    let this = slf.get();
    // For the reason given in `Dispatcher::poll`.
    py.check_signals()?;
    if this.internals.has(LIST) {
        slf.call_method0(intern!(py, "_sync_timers"))?;
    }
    let now_ns = clock::deadline_ns(now(slf)?);
    let patience = if this.stopping.load(Relaxed) {
        Some(Duration::ZERO)
    } else {
        this.queues.with(py, |queues| queues.timeout(|| now_ns))
    };
    if !this.internals.has(POLL) {
        return Ok(Dispatcher::wait_and_deliver(slf, worker, patience, |_, _| ())?.is_held);
    }
    let timeout = match patience {
        // Computed in floats, as in asyncio: a virtual clock that advances by the time-out has to land
        // exactly on the timer.
        Some(patience) if !patience.is_zero() => {
            let until =
                first_deadline(slf)?.map(|when| Ok::<_, PyErr>(when - now(slf)?)).transpose()?;
            Some(until.unwrap_or(patience.as_secs_f64()).clamp(0.0, WAIT_MAX.as_secs_f64()))
        }
        patience => patience.map(|it| it.as_secs_f64()),
    };
    // A replaced `select` may wait without our poller, which would unpark this worker.
    if let Some(called) = this.workers.called.take(py) {
        this.workers.role.slot(called).parker.unpark(WakeReason::WORK);
    }
    let selector = slf.getattr(intern!(py, "_selector"))?;
    let events = selector.call_method1(intern!(py, "select"), (timeout,))?;
    slf.call_method1(intern!(py, "_process_events"), (events,))?;
    py.check_signals()?;
    Ok(this.workers.role.is_held_by(worker.id))
}

/// When the first timer is due, in seconds of the loop's time, to the precision in which it was given.
fn first_deadline(slf: &Bound<'_, Dispatcher>) -> PyResult<Option<f64>> {
    let py = slf.py();
    let first = slf.get().queues.with(py, |queues| {
        let first =
            queues.timers().min_by_key(|(deadline_ns, key, _)| (*deadline_ns, key.to_bits()));
        first.map(|(deadline_ns, _, request)| (deadline_ns, handle_of(py, request)))
    });
    let Some((deadline_ns, handle)) = first else { return Ok(None) };
    match handle {
        Some(handle) => handle.bind(py).getattr(intern!(py, "_when"))?.extract().map(Some),
        None => Ok(Some(clock::to_seconds(deadline_ns))),
    }
}

/// Run a request outside of a tick, on the thread that runs the loop; if none does, on this one.
pub(crate) fn run_by_hand(slf: &Bound<'_, Dispatcher>, request: Request) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    Worker::at_home(slf, |worker| {
        let outside = fp::State::read();
        fp::State::DEFAULT.restore();
        this.n_requests.store(this.n_requests() + 1, Relaxed);
        let ran = current::kept(slf, || {
            let ran = Dispatcher::run(slf, request);
            Workers::end_if_over(slf)?;
            if !this.workers.keeps_role(py, worker) {
                Workers::get_role_back(slf, worker)?;
            }
            ran
        });
        outside.restore();
        ran
    })
}

/// Run a request of the running loop outside of a tick.
pub(crate) fn run_on_running_loop(py: Python<'_>, request: Request) -> PyResult<()> {
    let running = py.import("asyncio")?.call_method0("get_running_loop")?;
    run_by_hand(running.cast::<Dispatcher>()?, request)
}

/// The handle of a request that has none of its own: a task's step, say, or a ready connection.
#[pyclass(frozen, module = "threadlets._core", weakref)]
#[derive(Debug)]
pub(crate) struct RequestHandle {
    dispatcher: Py<Dispatcher>,
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
    /// Run the request now, outside of a tick; do nothing if it has run or was cancelled.
    fn _run(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        match slf.get().take(py) {
            Some(request) => run_by_hand(slf.get().dispatcher.bind(py), request),
            None => Ok(()),
        }
    }

    /// Cancel the request.
    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        self.cancelled.store(true, Relaxed);
        self.take(py).map_or(Ok(()), |request| request.abandon(py))
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

/// The handle that a request already has.
fn handle_of(py: Python<'_>, request: &Request) -> Option<Py<PyAny>> {
    Some(match request {
        Request::Callback(handle) => handle.clone_ref(py).into_any(),
        Request::Timer(handle) => handle.clone_ref(py).into_any(),
        Request::Foreign(handle) => handle.clone_ref(py),
        Request::Held(handle) => handle.clone_ref(py).into_any(),
        _ => return None,
    })
}

/// A request with its handle; one without gets a handle that holds it.
fn with_handle(slf: &Bound<'_, Dispatcher>, request: Request) -> PyResult<(Request, Py<PyAny>)> {
    let py = slf.py();
    if let Some(handle) = handle_of(py, &request) {
        return Ok((request, handle));
    }
    let handle = RequestHandle::new(slf, request.subject(py), None)?;
    drop(handle.get().request.with(py, |it| it.replace(request)));
    Ok((Request::Held(handle.clone_ref(py)), handle.into_any()))
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

/// A descriptor, and whether it is readable and writable.
type Occurred = (i32, bool, bool);

#[pymethods]
impl Dispatcher {
    /// Which private parts of the loop are replaced: the bits that `Loop._detect_replaced` sets.
    #[getter]
    fn _replaced(&self) -> u8 {
        self.internals.replaced.load(Relaxed)
    }

    #[setter(_replaced)]
    fn set_replaced(&self, what: u8) {
        self.internals.replaced.store(what, Relaxed);
    }

    /// Detect what is replaced; `Loop` overrides it.
    fn _detect_replaced(&self) {}

    /// Wait for events, at most for `timeout` seconds (None: for ever), and queue what they make ready.
    /// Return the descriptors, each with whether it is readable and writable, and whether the wait was
    /// ended by another cause.
    fn _select(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<(Vec<Occurred>, bool)> {
        let py = slf.py();
        let this = slf.get();
        let mut ready = Vec::new();
        let mut is_woken = false;
        Worker::at_home(slf, |worker| {
            let patience = match timeout {
                // A time that a `Duration` cannot hold is no limit.
                Some(timeout) => Duration::try_from_secs_f64(timeout.max(0.0)).ok(),
                None => None,
            };
            // A request that was queued since the caller computed the time-out would not end the wait.
            let has_work = this.queues.with(py, |queues| queues.has_work());
            is_woken = has_work && patience != Some(Duration::ZERO);
            let patience = if has_work { Some(Duration::ZERO) } else { patience };
            let waited =
                Dispatcher::wait_and_deliver(slf, worker, patience, |source, readiness| {
                    let fd = match source {
                        Source::Stream(stream) => stream.get().fd(py),
                        Source::Descriptor(fd) => *fd,
                    };
                    ready.push((fd, readiness.readable, readiness.writable));
                })?;
            is_woken |= waited.is_woken;
            if !waited.is_held {
                Workers::get_role_back(slf, worker)?;
            }
            py.check_signals()
        })?;
        Ok((ready, is_woken))
    }

    /// How many requests are ready; calls that may start count as one if nothing else is.
    fn _n_ready(&self, py: Python<'_>) -> usize {
        self.queues.with(py, |queues| queues.n_ready().max(usize::from(queues.has_work())))
    }

    /// The handles of the requests that are ready, in order.
    fn _ready_handles(slf: &Bound<'_, Self>) -> PyResult<Vec<Py<PyAny>>> {
        let handles = Self::_take_ready(slf)?;
        Self::_put_ready(slf, handles.iter().map(|it| it.bind(slf.py()).clone()).collect())?;
        Ok(handles)
    }

    /// Take all requests out of the ready queue, as handles.
    fn _take_ready(slf: &Bound<'_, Self>) -> PyResult<Vec<Py<PyAny>>> {
        let py = slf.py();
        let requests = slf.get().queues.with(py, |queues| std::mem::take(queues.ready_mut()));
        requests.into_iter().map(|it| Ok(with_handle(slf, it)?.1)).collect()
    }

    /// Queue handles before the requests that are ready.
    fn _put_ready(slf: &Bound<'_, Self>, handles: Vec<Bound<'_, PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let since = this.queues.with(py, |queues| std::mem::take(queues.ready_mut()));
        let queued = handles.iter().try_for_each(|handle| Self::_queue_handle(slf, handle));
        this.queues.with(py, |queues| queues.ready_mut().extend(since));
        queued
    }

    /// Take the first request that is ready, as a handle.
    fn _pop_ready(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        let request = slf.get().queues.with(slf.py(), |queues| queues.pop_ready());
        request.map(|it| Ok(with_handle(slf, it)?.1)).transpose()
    }

    /// Queue the request that a handle stands for; a timer becomes due at once.
    ///
    /// Raises:
    ///     TypeError: the object is not a handle.
    fn _queue_handle(slf: &Bound<'_, Self>, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let timed = timer_of(handle)?
            .and_then(|key| this.queues.with(py, |queues| queues.cancel_timer(key)));
        let request = match timed {
            Some(request) => request,
            None => {
                let handle = handle.clone();
                if let Ok(handle) = handle.cast::<Handle>() {
                    Request::Callback(handle.clone().unbind())
                } else if let Ok(handle) = handle.cast::<TimerHandle>() {
                    Request::Timer(handle.clone().unbind())
                } else if let Ok(handle) = handle.cast::<RequestHandle>() {
                    Request::Held(handle.clone().unbind())
                } else if handle.hasattr(intern!(py, "_run"))? {
                    Request::Foreign(handle.unbind())
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
    fn _timer_handles(slf: &Bound<'_, Self>) -> PyResult<Vec<Py<PyAny>>> {
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
            let sleeping = |sleep: Py<Sleep>| {
                let timer = Some((clock::to_seconds(deadline_ns), key));
                Ok(RequestHandle::new(slf, sleep.into_bound(py).into_any(), timer)?.into_any())
            };
            handle.map(Ok).or_else(|| sleep.map(sleeping))
        });
        shown.collect()
    }

    /// Start a timer for a handle that the program has made.
    fn _start_timer(&self, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = handle.py();
        let when: f64 = handle.getattr(intern!(py, "_when"))?.extract()?;
        let request = Request::Foreign(handle.clone().unbind());
        self.queues.with(py, |queues| queues.submit_at(clock::deadline_ns(when), request));
        self.wake_if_sleeping(py)
    }

    /// Cancel the timer of a handle.
    fn _stop_timer(&self, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Some(key) = timer_of(handle)? {
            self.forget_timer(handle.py(), key);
        }
        Ok(())
    }
}
