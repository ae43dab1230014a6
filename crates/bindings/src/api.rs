//! The methods of `Dispatcher`, the native base class of `threadlets.Loop`. Each hands over to the module that does
//! the work.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pyo3::PyTraverseError;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use threadlets_core::{Start, TimerKey, clock};

use crate::callbacks::scheduling;
use crate::calls::pool::Pool;
use crate::calls::queued_call::{self, Work};
use crate::calls::starts;
use crate::dispatcher::Dispatcher;
use crate::dispatcher::descriptor_table::{Handlers, SockOpKind};
use crate::dispatcher::request::{Direction, Request};
use crate::dispatcher::worker::Worker;
use crate::dispatcher::workers::Blocked;
use crate::net::datagrams::Datagrams;
use crate::net::{descriptors, sock_ops};
use crate::py::byte_buffer::ByteBuffer;
use crate::task::making;
use crate::tick::by_hand::{self, Occurred};
use crate::tick::{closing, dispatch, request_handle, worker_thread};
use crate::workers::{shutdown, signals};

#[pymethods]
impl Dispatcher {
    /// Make a dispatcher; subclasses may take arguments of their own.
    #[new]
    #[pyo3(signature = (*_args, threads_max=None, **_kwargs))]
    fn new(
        _args: &Bound<'_, PyTuple>,
        threads_max: Option<usize>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        Self::make(threads_max, worker_thread::spawn)
    }

    /// Return the loop's time in seconds, which is that of `time.monotonic()`.
    fn time(&self) -> f64 {
        clock::to_seconds(clock::now_ns())
    }

    /// Call `callback(*args)` in the next tick.
    #[pyo3(signature = (callback, *args, context=None))]
    fn call_soon<'py>(
        slf: &Bound<'py, Self>,
        callback: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        scheduling::submit(slf, callback, args, context, "call_soon")
    }

    /// Call `callback(*args)` in the next tick; any thread may ask for it.
    #[pyo3(signature = (callback, *args, context=None))]
    fn call_soon_threadsafe<'py>(
        slf: &Bound<'py, Self>,
        callback: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        scheduling::submit(slf, callback, args, context, "call_soon_threadsafe")
    }

    /// Call `callback(*args)` when the loop's time reaches `when`, in seconds.
    #[pyo3(signature = (when, callback, *args, context=None))]
    fn call_at<'py>(
        slf: &Bound<'py, Self>,
        when: Option<f64>,
        callback: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let when = when.ok_or_else(|| PyTypeError::new_err("when cannot be None"))?;
        scheduling::submit_at(slf, when, callback, args, context, "call_at")
    }

    /// Call `callback(*args)` after `delay` seconds.
    #[pyo3(signature = (delay, callback, *args, context=None))]
    fn call_later<'py>(
        slf: &Bound<'py, Self>,
        delay: Option<f64>,
        callback: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let delay = delay.ok_or_else(|| PyTypeError::new_err("delay must not be None"))?;
        if slf.get().replaced.replaces_timers() {
            return by_hand::call_later(slf, delay, &callback, &args, context);
        }
        let when = slf.get().time() + delay;
        scheduling::submit_at(slf, when, callback, args, context, "call_later")
    }

    /// Queue an `asyncio.Handle`.
    fn _add_callback(&self, handle: Bound<'_, PyAny>) -> PyResult<()> {
        let py = handle.py();
        self.submit(py, Request::Foreign(handle.unbind()))
    }

    /// Queue an `asyncio.Handle` from a signal handler or another thread.
    fn _add_callback_signalsafe(&self, handle: Bound<'_, PyAny>) -> PyResult<()> {
        self._add_callback(handle)
    }

    /// Remove the timer of a cancelled `asyncio.TimerHandle`, if it is one of debug mode, which has the key.
    fn _timer_handle_cancelled(&self, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = handle.py();
        if let Some(key) = handle.getattr_opt(intern!(py, "_key"))? {
            self.forget_timer(py, TimerKey::from_bits(key.extract()?));
        }
        Ok(())
    }

    /// Wake the dispatcher from any thread.
    fn _write_to_self(&self, py: Python<'_>) -> PyResult<()> {
        self.wake_poller(py)
    }

    /// Cancel the runs that are under way, and wait until all have ended, for a few seconds at most.
    /// Runs that persist are not cancelled.
    fn _end_runs(&self, py: Python<'_>) {
        closing::end_runs(self, py);
    }

    /// Drop everything that is queued or registered, and the poller: the loop is closed.
    fn _release(&self, py: Python<'_>) {
        closing::release(self, py);
    }

    #[getter(_debug)]
    fn debug(&self) -> bool {
        self.is_debug()
    }

    #[setter(_debug)]
    fn set_debug_flag(&self, enabled: &Bound<'_, PyAny>) -> PyResult<()> {
        self.set_debug(enabled.is_truthy()?);
        Ok(())
    }

    #[getter(_stopping)]
    fn stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    #[setter(_stopping)]
    fn set_stopping(&self, py: Python<'_>, stopping: bool) -> PyResult<()> {
        self.stopping.store(stopping, Relaxed);
        self.wake_if_sleeping(py)
    }

    #[getter(_closed)]
    fn closed(&self) -> bool {
        self.is_closed()
    }

    #[setter(_closed)]
    fn put_closed(&self, closed: bool) {
        self.set_closed(closed);
    }

    #[getter(_thread_id)]
    fn thread_id(&self) -> Option<u64> {
        self.thread()
    }

    #[setter(_thread_id)]
    fn set_thread_id(&self, thread_id: Option<u64>) {
        self.set_thread(thread_id.unwrap_or(0));
    }

    /// Raise a `RuntimeError` if the loop is closed.
    fn _check_closed(&self) -> PyResult<()> {
        self.check_closed()
    }

    /// Return how many requests are ready, how many timers wait and how many descriptors are registered.
    fn _counts(&self, py: Python<'_>) -> (usize, usize, usize) {
        let (n_ready, n_timers) = self.queues.with(py, |it| (it.n_ready(), it.n_timers()));
        (n_ready, n_timers, self.sources.with(py, |sources| sources.len()))
    }

    /// Run ticks until `_stopping` is set; the loop's run_forever wraps it.
    fn _run_ticks(slf: &Bound<'_, Self>) -> PyResult<()> {
        dispatch::run_home(slf)
    }

    /// Run one tick.
    fn _run_once(slf: &Bound<'_, Self>) -> PyResult<()> {
        dispatch::run_once(slf)
    }

    /// Make a task of a coroutine. The arguments are those of `Task`; a task factory gets the given ones.
    #[cfg(Py_3_14)]
    #[pyo3(signature = (coro, **kwargs))]
    fn create_task<'py>(
        slf: &Bound<'py, Self>,
        coro: Bound<'py, PyAny>,
        kwargs: Option<Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        making::create_task(slf, coro, kwargs)
    }

    /// Make a task of a coroutine.
    #[cfg(not(Py_3_14))]
    #[pyo3(signature = (coro, *, name=None, context=None, eager_start=None))]
    fn create_task<'py>(
        slf: &Bound<'py, Self>,
        coro: Bound<'py, PyAny>,
        name: Option<Bound<'py, PyAny>>,
        context: Option<Bound<'py, PyAny>>,
        eager_start: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        making::create_task(slf, coro, name, context, eager_start)
    }

    /// Make a future of this loop.
    fn create_future<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        making::create_future(slf)
    }

    /// Have `factory(loop, coro, **kwargs)` make the loop's tasks; None: the loop makes them itself.
    #[pyo3(signature = (factory))]
    fn set_task_factory(&self, factory: Option<Bound<'_, PyAny>>, py: Python<'_>) -> PyResult<()> {
        if let Some(factory) = &factory
            && !factory.is_callable()
        {
            return Err(PyTypeError::new_err("task factory must be a callable or None"));
        }
        drop(self.task_factory.replace(py, factory.map(Bound::unbind)));
        Ok(())
    }

    /// Return what makes the loop's tasks; None if the loop makes them itself.
    fn get_task_factory(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.task_factory.with(py, |it| it.as_ref().map(|it| it.clone_ref(py)))
    }

    /// asyncio's name for the task factory.
    #[getter]
    fn _task_factory(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.get_task_factory(py)
    }

    #[setter(_task_factory)]
    fn put_task_factory(&self, py: Python<'_>, factory: Option<Py<PyAny>>) {
        drop(self.task_factory.replace(py, factory));
    }

    /// Whether tasks and futures are asyncio's own classes.
    #[getter]
    fn _uses_asyncio_tasks(&self) -> bool {
        self.uses_asyncio_tasks.load(Relaxed)
    }

    #[setter(_uses_asyncio_tasks)]
    fn set_uses_asyncio_tasks(&self, enabled: bool) {
        self.uses_asyncio_tasks.store(enabled, Relaxed);
    }

    /// The requests of this loop that have not ended: tasks, and what else belongs to scopes.
    fn _requests<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyAny>> {
        self.requests.with(py, |it| it.requests(py, None))
    }

    /// Counts of what the loop has outstanding: requests by kind, callbacks that are ready, timers, runs in
    /// flight in an engine, descriptors that are waited for, blocked functions, threads that are not idle.
    fn _outstanding<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.outstanding(py)
    }

    /// Queue `function(*args, **kwargs)` as a threadlet that settles `future`, from any thread.
    ///
    /// `any_thread_settles`: the future is a `concurrent.futures.Future`. Without a pool the call is
    /// grouped with others of the same function.
    #[pyo3(signature = (future, any_thread_settles, pool, function, args, kwargs=None))]
    fn _submit_call(
        slf: &Bound<'_, Self>,
        future: Py<PyAny>,
        any_thread_settles: bool,
        pool: Option<Bound<'_, Pool>>,
        function: Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        kwargs: Option<Py<PyDict>>,
    ) -> PyResult<()> {
        let work = Work::of(function, args, kwargs);
        queued_call::queue(slf, work, future, any_thread_settles, pool)
    }

    /// Where calls start unless their pool says so: "auto", "inline" or "beside".
    #[getter(_start)]
    fn start_name(&self, py: Python<'_>) -> &'static str {
        match self.start.get(py) {
            None => "auto",
            Some(Start::Inline) => "inline",
            Some(Start::Beside) => "beside",
        }
    }

    #[setter(_start)]
    fn set_start(&self, py: Python<'_>, start: &str) -> PyResult<()> {
        self.start.set(py, starts::parse(start)?);
        Ok(())
    }

    /// Statistics of the workers and of calls so far, and how many threads there are.
    fn _worker_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.workers.stats(py)?;
        starts::add_counts(self, &stats)?;
        Ok(stats)
    }

    /// The functions that are blocked: function, thread, since when in seconds of the loop's time,
    /// whether it has returned and waits for the role, and the task that awaits it.
    fn _blocked(&self, py: Python<'_>) -> Vec<Blocked> {
        self.workers.blocked(py)
    }

    /// After how many seconds a call that computes is taken over; None: never.
    #[getter(_preempt_s)]
    fn preempt_s(&self) -> Option<f64> {
        self.workers.monitor.overdue().map(|it| it.as_secs_f64())
    }

    #[setter(_preempt_s)]
    fn set_preempt_s(&self, seconds: Option<f64>) -> PyResult<()> {
        let after = seconds.map(Duration::try_from_secs_f64).transpose();
        let after = after.map_err(|error| PyValueError::new_err(error.to_string()))?;
        self.workers.monitor.set_overdue(after);
        Ok(())
    }

    /// End the threads; return how many are left, blocked in functions that cannot be stopped.
    fn _stop_workers(&self, py: Python<'_>) -> usize {
        shutdown::stop(&self.workers, py)
    }

    /// In the child of a fork: forget all threads but the one that forked.
    fn _after_fork(slf: &Bound<'_, Self>) {
        Worker::with_current(|worker| {
            shutdown::reset(slf, worker.filter(|it| it.dispatcher(slf.py()).is(slf)));
        });
    }

    /// Call `callback(*args)` for as long as `fd` has something to read.
    #[pyo3(signature = (fd, callback, *args, context=None))]
    fn _add_reader<'py>(
        slf: &Bound<'py, Self>,
        fd: &Bound<'py, PyAny>,
        callback: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        descriptors::add_handler(slf, fd, Direction::Read, (callback, args, slf, context))
    }

    /// Call `callback(*args)` for as long as `fd` has room to write.
    #[pyo3(signature = (fd, callback, *args, context=None))]
    fn _add_writer<'py>(
        slf: &Bound<'py, Self>,
        fd: &Bound<'py, PyAny>,
        callback: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        descriptors::add_handler(slf, fd, Direction::Write, (callback, args, slf, context))
    }

    /// Call `on_connection(stream)` for every connection that the listening socket `fd` accepts, and
    /// `on_error(exception)` when accepting fails, until `_remove_reader(fd)`. Each connection gets a copy of
    /// `context`.
    #[pyo3(signature = (fd, on_connection, on_error, context=None))]
    fn _add_acceptor(
        slf: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        on_connection: Py<PyAny>,
        on_error: Py<PyAny>,
        context: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        descriptors::add_acceptor(slf, fd, on_connection, on_error, context)
    }

    /// Pass the datagrams that arrive on the socket `fd` to `protocol`, until `_remove_reader(fd)`.
    fn _add_datagrams(
        slf: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        protocol: Py<PyAny>,
    ) -> PyResult<Py<Datagrams>> {
        descriptors::add_datagrams(slf, fd, protocol)
    }

    /// Return the descriptors with a handler, each with its reader and its writer or None.
    fn _descriptors(&self, py: Python<'_>) -> Vec<Handlers> {
        self.descriptors.with(py, |descriptors| descriptors.handlers(py))
    }

    /// Stop calling the reader of `fd`; return whether there was one.
    fn _remove_reader(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        descriptors::remove(slf, fd, Direction::Read)
    }

    /// Stop calling the writer of `fd`; return whether there was one.
    fn _remove_writer(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        descriptors::remove(slf, fd, Direction::Write)
    }

    /// Receive up to `n_bytes_max` bytes: `(True, bytes)`, or `(False, future)`.
    fn _sock_recv<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        n_bytes_max: isize,
    ) -> PyResult<(bool, Bound<'py, PyAny>)> {
        let n_bytes_max = usize::try_from(n_bytes_max)
            .map_err(|_| PyValueError::new_err("negative buffersize in recv"))?;
        sock_ops::start(slf, sock, SockOpKind::Receive { n_bytes_max })
    }

    /// Receive into a writable buffer: `(True, n_bytes)`, or `(False, future)`.
    fn _sock_recv_into<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        buffer: &Bound<'py, PyAny>,
    ) -> PyResult<(bool, Bound<'py, PyAny>)> {
        let buffer = ByteBuffer::writable(buffer)?;
        sock_ops::start(slf, sock, SockOpKind::ReceiveInto { buffer })
    }

    /// Send all of `data`: `(True, None)`, or `(False, future)`.
    fn _sock_sendall<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<(bool, Bound<'py, PyAny>)> {
        let buffer = ByteBuffer::readable(data)?;
        sock_ops::start(slf, sock, SockOpKind::SendAll { buffer, n_sent: 0 })
    }

    /// Forget the operation of a future that was cancelled, and release its buffer.
    fn _sock_withdraw(&self, fd: i32, future: &Bound<'_, PyAny>) {
        sock_ops::withdraw(self, fd, future);
    }

    /// Have a signal write its number to a descriptor.
    fn _write_signal(&self, number: i32, fd: i32) -> PyResult<()> {
        signals::write_number(&self.workers, number, fd)
    }

    /// Restore the default action of a signal.
    fn _default_signal(&self, number: i32) -> PyResult<()> {
        signals::use_default(&self.workers, number)
    }

    /// Pass a signal to the interpreter's handler again; `take_passed` tells that handler that it was.
    fn _pass_signal(&self, number: i32) -> PyResult<()> {
        signals::pass_to_host(&self.workers, number)
    }

    /// The signals whose handlers have yet to be set with the interpreter.
    fn _interim_signals(&self) -> Vec<i32> {
        signals::interim(&self.workers)
    }

    /// Whether a signal still has the action that this loop has set with the kernel.
    fn _is_interim(&self, number: i32) -> bool {
        threadlets_core::signals::is_interim(number)
    }

    /// Note that a signal's handler was set with the interpreter, or need not be.
    fn _end_interim(&self, number: i32) {
        signals::end_interim(&self.workers, number);
    }

    /// Stop signals from writing to a descriptor that is about to be closed.
    fn _forget_signals(&self, fd: i32) {
        threadlets_core::signals::forget(fd);
    }

    /// What happens when a request changes the floating-point state.
    #[getter(_fp_policy)]
    fn fp_policy_name(&self) -> &'static str {
        self.fp_policy.name()
    }

    #[setter(_fp_policy)]
    fn set_fp_policy(&self, name: &str) -> PyResult<()> {
        if self.fp_policy.set(name) {
            return Ok(());
        }
        Err(PyValueError::new_err(format!(
            "fp is {name:?}; it is 'restore', 'warn', 'raise' or 'off'"
        )))
    }

    /// Which private parts of the loop are replaced: the bits that `Loop._detect_replaced` sets.
    #[getter]
    fn _replaced(&self) -> u8 {
        self.replaced.bits()
    }

    #[setter(_replaced)]
    fn set_replaced(&self, what: u8) {
        self.replaced.set_bits(what);
    }

    /// Detect what is replaced; `Loop` overrides it.
    fn _detect_replaced(&self) {}

    /// Wait for events, at most for `timeout` seconds (None: for ever), and queue what they make ready. Return
    /// the descriptors, each with whether it is readable and writable, and whether another cause ended the wait.
    fn _select(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<(Vec<Occurred>, bool)> {
        by_hand::select(slf, timeout)
    }

    /// How many requests are ready; calls that may start count as one if nothing else is.
    fn _n_ready(&self, py: Python<'_>) -> usize {
        self.queues.with(py, |queues| queues.n_ready().max(usize::from(queues.has_work())))
    }

    /// The handles of the requests that are ready, in order.
    fn _ready_handles(slf: &Bound<'_, Self>) -> PyResult<Vec<Py<PyAny>>> {
        request_handle::ready_handles(slf)
    }

    /// Take all requests out of the ready queue, as handles.
    fn _take_ready(slf: &Bound<'_, Self>) -> PyResult<Vec<Py<PyAny>>> {
        request_handle::take_ready(slf)
    }

    /// Queue handles before the requests that are ready.
    fn _put_ready(slf: &Bound<'_, Self>, handles: Vec<Bound<'_, PyAny>>) -> PyResult<()> {
        request_handle::put_ready(slf, handles)
    }

    /// Take the first request that is ready, as a handle.
    fn _pop_ready(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        request_handle::pop_ready(slf)
    }

    /// Queue the request that a handle stands for; a timer becomes due at once. A TypeError: it is no handle.
    fn _queue_handle(slf: &Bound<'_, Self>, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        request_handle::queue_handle(slf, handle)
    }

    /// The handles of the timers, earliest first.
    fn _timer_handles(slf: &Bound<'_, Self>) -> PyResult<Vec<Py<PyAny>>> {
        request_handle::timer_handles(slf)
    }

    /// Start a timer for a handle that the program has made.
    fn _start_timer(&self, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        request_handle::start_timer(self, handle)
    }

    /// Cancel the timer of a handle.
    fn _stop_timer(&self, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        request_handle::stop_timer(self, handle)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.traverse(&visit)
    }

    fn __clear__(&self, py: Python<'_>) {
        self._release(py);
    }
}
