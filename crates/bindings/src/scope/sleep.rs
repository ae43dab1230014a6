//! `Sleep`: a future that is done after a time. It needs no coroutine, no callback and no handle.

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use threadlets_core::{TimerKey, clock};

use crate::dispatcher::replaced;
use crate::dispatcher::request::Request;
use crate::dispatcher::worker::Worker;
use crate::py::error::wrong_type;
use crate::py::gil_cell::GilSlot;
use crate::task::future::Future;
use crate::task::slots::{NativeClass, NativeFuture};

/// The future that `threadlets.sleep` returns.
#[pyclass(frozen, extends = Future, module = "threadlets._core")]
pub(crate) struct Sleep {
    timer: GilSlot<TimerKey>,
}

impl Sleep {
    /// Settle the sleep: its time has come.
    pub(crate) fn end(slf: &Bound<'_, Self>) -> PyResult<()> {
        Future::resolve(slf.as_super(), slf.py().None())
    }

    /// Forget the timer: the sleep was cancelled, or has ended.
    fn forget_timer(slf: &Bound<'_, Self>) {
        let py = slf.py();
        let key = slf.get().timer.replace(py, TimerKey::NONE);
        if key != TimerKey::NONE {
            slf.as_super().get().dispatcher.get().forget_timer(py, key);
        }
    }
}

impl NativeFuture for Sleep {
    const CLASS: NativeClass = NativeClass::Sleep;
    const WITHDRAW: Option<fn(&Bound<'_, Self>)> = Some(Self::forget_timer);
}

/// Return a future of the running loop that is done after `delay` seconds, with the result None.
///
/// The time runs from now on, whether or not the future is awaited.
///
/// Raises:
///     RuntimeError: no threadlets loop runs in this thread.
///     ValueError: the delay is NaN.
///     TypeError: the delay is no number.
#[pyfunction]
pub(crate) fn sleep<'py>(delay: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Sleep>> {
    let py = delay.py();
    let delay: f64 = delay
        .extract()
        .map_err(|_| wrong_type("delay", delay, "a time in seconds: pass a float or an int"))?;
    if delay.is_nan() {
        return Err(PyValueError::new_err("delay is NaN; it is a time in seconds"));
    }
    Worker::with_current(|worker| {
        let worker = worker.ok_or_else(|| {
            PyRuntimeError::new_err(
                "threadlets.sleep() was called where no threadlets loop runs; call it in a \
                 coroutine, within threadlets.run(main())",
            )
        })?;
        let dispatcher = worker.dispatcher(py);
        let this = dispatcher.get();
        this.check_closed()?;
        let future = Future::new(dispatcher.clone().unbind());
        future.remember_source(py)?;
        // Set below, once the timer was started.
        let sleep = Sleep { timer: GilSlot::new(TimerKey::NONE) };
        let sleep = Bound::new(py, PyClassInitializer::from(future).add_subclass(sleep))?;
        let deadline_ns = clock::deadline_ns(replaced::now(dispatcher)? + delay);
        let request = Request::Sleep(sleep.clone().into_any().unbind());
        let key = this.queues.with(py, |queues| queues.submit_at(deadline_ns, request));
        sleep.get().timer.set(py, key);
        this.wake_if_sleeping(py)?;
        Ok(sleep)
    })
}

#[pymethods]
impl Sleep {
    /// Refuse: a sleep ends by itself.
    #[pyo3(signature = (_result, /))]
    fn set_result(&self, _result: Bound<'_, PyAny>) -> PyResult<()> {
        Err(PyTypeError::new_err("a sleep ends by itself; cancel() ends it before its time"))
    }
}
