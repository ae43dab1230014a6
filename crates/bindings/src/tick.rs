//! The dispatcher's tick: poll, fire due timers, and run the requests that are ready, with a boundary after
//! each at which the role may pass to another thread.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pyo3::intern;
use pyo3::prelude::*;
use threadlets_core::takeover::WakeReason;
use threadlets_core::{Readiness, clock, fp};

use crate::beside::Job;
use crate::callback::{Callback, Due};
use crate::contract;
use crate::descriptors::Descriptors;
use crate::dispatcher::{Dispatcher, Source};
use crate::error::{ends_the_loop, to_python};
use crate::greenlets;
use crate::internals::{self, Internals};
use crate::interpreter;
use crate::request::Request;
use crate::scope::members::Members;
use crate::scope::sleep::Sleep;
use crate::stream::Stream;
use crate::task::future::Future;
use crate::task::waiters::DoneCallback;
use crate::task::{current, step};
use crate::worker::Worker;
use crate::workers::Workers;

/// How soon the kernel is asked again to watch a descriptor after it has refused.
const REARM: Duration = Duration::from_millis(50);
/// How long a poll waits at most where a debugger may have this process run a script.
const DEBUGGER_PATIENCE: Duration = Duration::from_secs(1);

/// Why a worker stopped running ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The loop is to stop, or its ticks go on in a replaced `_run_once`; on the home thread alone.
    Stopped,
    /// Another worker has the role.
    RoleLost,
}

/// How a wait for events has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waited {
    /// This worker still has the role.
    pub(crate) is_held: bool,
    /// It was ended by a wake-up or a message, rather than by a descriptor.
    pub(crate) is_woken: bool,
}

impl Dispatcher {
    /// Run ticks until the loop is to stop or the role is lost.
    ///
    /// Only the home thread stops the loop. While it is blocked in a function, other workers go on: what
    /// the function waits for may need the loop.
    pub(crate) fn dispatch(slf: &Bound<'_, Self>, worker: &Worker) -> PyResult<Ended> {
        let this = slf.get();
        loop {
            if !Self::tick(slf, worker)? {
                return Ok(Ended::RoleLost);
            }
            let ends = this.stopping.load(Relaxed)
                || this.workers.has_pending(slf.py())
                || this.internals.replaces_ticks();
            if worker.is_home() && ends {
                return Ok(Ended::Stopped);
            }
        }
    }

    /// Run one tick; whether this worker still has the role.
    pub(crate) fn tick(slf: &Bound<'_, Self>, worker: &Worker) -> PyResult<bool> {
        let outcome = Self::poll_and_run(slf, worker);
        match outcome {
            Ok(false) => current::leave(slf),
            _ => current::clear(slf),
        }
        outcome
    }

    fn poll_and_run(slf: &Bound<'_, Self>, worker: &Worker) -> PyResult<bool> {
        let py = slf.py();
        let this = slf.get();
        if !Workers::take_steps(slf, worker)? {
            return Ok(false);
        }
        let is_held = if Internals::replaces_poll(slf)? {
            internals::poll(slf, worker)?
        } else {
            Self::poll(slf, worker)?
        };
        if !is_held {
            return Ok(false);
        }
        // Requests start in the default floating-point state, whatever ran on this thread before.
        if fp::State::read() != fp::State::DEFAULT {
            fp::State::DEFAULT.restore();
        }
        let due_ns = internals::due_ns(slf)?;
        this.queues.with(py, |queues| queues.begin_tick(|| due_ns.unwrap_or_else(clock::now_ns)));
        let mut slice = this.slice.get(py);
        slice.begin_tick();
        this.slice.set(py, slice);
        // A callback may have emptied the queue, or may have been taken over; then another worker runs the
        // rest of the tick.
        while let Some(request) = this.queues.with(py, |queues| queues.next(clock::now_ns)) {
            this.n_requests.store(this.n_requests() + 1, Relaxed);
            Self::run(slf, request)?;
            Workers::end_if_over(slf)?;
            if greenlets::may_be_new(py) {
                greenlets::look(slf, worker);
            }
            if !this.workers.keeps_role(py, worker) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Poll, and wait if nothing is ready; whether this worker still has the role.
    fn poll(slf: &Bound<'_, Self>, worker: &Worker) -> PyResult<bool> {
        let py = slf.py();
        let this = slf.get();
        // The byte that a signal writes ends only one wait, and another worker may have read it while this
        // thread was inside a function. Handlers have to run before the length of the wait is computed,
        // which they may change.
        py.check_signals()?;
        let patience = if worker.is_home() && this.stopping.load(Relaxed) {
            Some(Duration::ZERO)
        } else {
            this.queues.with(py, |queues| queues.timeout(clock::now_ns))
        };
        // `check_signals` also runs the script of a debugger, which does not wake the poll.
        let patience = if worker.is_home() && interpreter::obeys_debuggers(py) {
            Some(patience.map_or(DEBUGGER_PATIENCE, |it| it.min(DEBUGGER_PATIENCE)))
        } else {
            patience
        };
        let is_held = Self::wait_and_deliver(slf, worker, patience, |_, _| ())?.is_held;
        if is_held {
            // Last: a signal handler may raise.
            py.check_signals()?;
        }
        Ok(is_held)
    }

    /// Wait for events, without the GIL, and queue the requests that they make ready; `tell` is called for
    /// each event. The role can be taken meanwhile.
    pub(crate) fn wait_and_deliver(
        slf: &Bound<'_, Self>,
        worker: &Worker,
        patience: Option<Duration>,
        mut tell: impl FnMut(&Source, Readiness),
    ) -> PyResult<Waited> {
        let py = slf.py();
        let this = slf.get();
        let poller = this.poller(py)?;
        let is_armed = Descriptors::rearm(slf, py, &poller)?;
        let patience =
            if is_armed { patience } else { Some(patience.map_or(REARM, |it| it.min(REARM))) };
        // No thread may be queued for the role while we wait for events. Each request ends with a boundary,
        // but Python code also runs between requests: signal handlers, and the hooks of a new worker.
        if !this.workers.keeps_role(py, worker) {
            return Ok(Waited { is_held: false, is_woken: false });
        }
        this.workers.registry.with(py, |registry| registry.start_polling());
        // Set while the GIL is still held: the next thread that holds it has to know that it must wake us.
        this.sleeping.store(patience != Some(Duration::ZERO), Relaxed);
        this.is_being_woken.store(false, Relaxed);
        // Engines hold no GIL: check once more for messages that they sent before they knew that we wait.
        let patience =
            if this.completions.starts_waiting() { Some(Duration::ZERO) } else { patience };
        let (role, id) = (&this.workers.role, worker.id);
        let called = this.workers.called.take(py);
        let waited = py.detach(|| {
            if let Some(called) = called {
                role.slot(called).parker.unpark(WakeReason::WORK);
            }
            poller.wait(patience, || role.is_held_by(id))
        });
        let is_held = role.is_held_by(worker.id);
        if is_held {
            this.sleeping.store(false, Relaxed);
            this.completions.stops_waiting();
            this.workers.registry.with(py, |registry| registry.stop_polling());
        }
        waited.map_err(to_python)?;
        // Delivered even if the role was lost: an edge is not reported twice.
        let is_woken = this.queues.with(py, |queues| {
            this.sources.with(py, |sources| {
                this.descriptors.with(py, |descriptors| {
                    poller.deliver(|key, readiness| {
                        let Some(source) = sources.get(key) else { return };
                        tell(source, readiness);
                        match source {
                            Source::Stream(stream) => {
                                if let Some(request) = Stream::note(stream, py, readiness) {
                                    queues.submit(request);
                                }
                            }
                            Source::Descriptor(fd) => {
                                descriptors.became_ready(py, *fd, readiness, queues)
                            }
                        }
                    })
                })
            })
        });
        let messages = this.completions.take();
        let is_woken = is_woken || !messages.is_empty();
        if !messages.is_empty() {
            this.queues.with(py, |queues| {
                messages.into_iter().for_each(|it| queues.submit(Request::Message(it)));
            });
        }
        if !is_held {
            // The worker that took the role may already wait for what we have just queued, and our wait may
            // have used up the wake-up that was to end that worker's.
            this.is_being_woken.store(false, Relaxed);
            this.wake_if_sleeping(py)?;
        }
        Ok(Waited { is_held, is_woken })
    }

    pub(crate) fn run(slf: &Bound<'_, Self>, request: Request) -> PyResult<()> {
        if slf.get().is_debug() {
            return Self::run_watched(slf, request);
        }
        Self::run_unwatched(slf, request)
    }

    fn run_unwatched(slf: &Bound<'_, Self>, request: Request) -> PyResult<()> {
        let py = slf.py();
        if let Request::Step(task) = &request {
            let stepped = step::take(slf, task.bind(py));
            contract::check(slf, || Some(task.bind(py).clone().into_any()))?;
            return Self::outlive(slf, stepped);
        }
        current::clear(slf);
        match request {
            Request::Step(_) => unreachable!("taken above"),
            Request::Sleep(sleep) => Self::outlive(slf, Sleep::end(sleep.bind(py))),
            Request::End(members) => Self::outlive(slf, Members::tell_some(members.bind(py))),
            Request::Done(callback) => {
                let ran = callback.run(py);
                contract::check(slf, || Some(callback.callable.bind(py).clone()))?;
                let Err(error) = ran else { return Ok(()) };
                let future = callback.future.clone_ref(py);
                Self::report(slf, error, callback.into_callback(py)?, |it| {
                    let (callable, context) = (it.callable, it.context);
                    Request::Done(Box::new(DoneCallback { callable, future, context }))
                })
            }
            Request::Callback(handle) => match handle.get().take(py) {
                Some(callback) => handle.get().during(slf, || {
                    Self::run_callback(slf, callback, |callback| {
                        handle.get().put_back(py, callback);
                        Request::Callback(handle.clone_ref(py))
                    })
                }),
                None => Ok(()),
            },
            Request::Timer(handle) => match handle.get().take(py) {
                Some(Due::Result(future, result)) => {
                    Self::outlive(slf, Future::resolve(future.bind(py), result))
                }
                Some(Due::Callback(callback)) => Self::run_callback(slf, callback, |callback| {
                    handle.get().put_back(py, callback, slf.clone().unbind());
                    Request::Timer(handle.clone_ref(py))
                }),
                None => Ok(()),
            },
            Request::Foreign(handle) => Self::run_foreign(slf, handle.bind(py)),
            Request::Stream(stream) => {
                let served = Stream::serve(stream.bind(py));
                contract::check(slf, || stream.get().protocol(py))?;
                Self::outlive(slf, served)
            }
            Request::Accept(acceptor) => {
                let accepted = crate::accept::run(slf, acceptor.bind(py));
                contract::check(slf, || Some(acceptor.into_bound(py).into_any()))?;
                Self::outlive(slf, accepted)
            }
            Request::Datagrams(datagrams) => {
                let received = crate::datagrams::run(slf, datagrams.bind(py));
                contract::check(slf, || Some(datagrams.get().protocol(py)))?;
                Self::outlive(slf, received)
            }
            Request::Operations(fd, direction) => {
                let tried = crate::sock_ops::retry(slf, fd, direction);
                contract::check(slf, || None)?;
                Self::outlive(slf, tried)
            }
            Request::Call(call) => {
                let ran = call.get().run(slf, &call);
                contract::check(slf, || call.get().function(py))?;
                Self::outlive(slf, ran)
            }
            Request::Beside(call) => {
                Workers::submit_beside(slf, Job::Awaited(call));
                Ok(())
            }
            Request::Message(message) => {
                let delivered = Self::deliver(slf, message);
                contract::check(slf, || None)?;
                Self::outlive(slf, delivered)
            }
            Request::Held(handle) => match handle.get().take(py) {
                Some(request) => Self::run_unwatched(slf, request),
                None => Ok(()),
            },
            Request::Settle(settled) => {
                let (call, outcome) = *settled;
                let settled = call.get().settle(py, outcome);
                contract::check(slf, || call.get().function(py))?;
                Self::outlive(slf, settled)
            }
        }
    }

    /// Report the error of a request, unless it ends the loop.
    pub(crate) fn outlive(slf: &Bound<'_, Self>, outcome: PyResult<()>) -> PyResult<()> {
        let py = slf.py();
        match outcome {
            Err(error) if !ends_the_loop(py, &error) => {
                slf.call_method1(intern!(py, "_request_failed"), (error,)).map(drop)
            }
            outcome => outcome,
        }
    }

    /// Run a request in debug mode, with checks before and afterwards.
    fn run_watched(slf: &Bound<'_, Self>, request: Request) -> PyResult<()> {
        let py = slf.py();
        let what = request.subject(py);
        let before = match slf.call_method1(intern!(py, "_request_begins"), (&what,)) {
            Ok(before) => before,
            // The request runs all the same.
            Err(error) => {
                Self::outlive(slf, Err(error))?;
                py.None().into_bound(py)
            }
        };
        let started_ns = clock::now_ns();
        let ran = contract::listening(slf, || Self::run_unwatched(slf, request));
        // Taken before debug mode's own checks, which are not the request's time.
        let duration = clock::to_seconds(clock::now_ns() - started_ns);
        let ended = slf.call_method1(intern!(py, "_request_ended"), (what, before, duration));
        ran.and(Self::outlive(slf, ended.map(drop)))
    }

    /// Run a callback; `put_back` makes it a request again if it has to wait.
    fn run_callback(
        slf: &Bound<'_, Self>,
        callback: Callback,
        put_back: impl FnOnce(Callback) -> Request,
    ) -> PyResult<()> {
        let ran = callback.run(slf.py());
        contract::check(slf, || Some(callback.callable.bind(slf.py()).clone()))?;
        match ran {
            Ok(()) => Ok(()),
            Err(error) => Self::report(slf, error, callback, put_back),
        }
    }

    #[cold]
    fn report(
        slf: &Bound<'_, Self>,
        error: PyErr,
        callback: Callback,
        put_back: impl FnOnce(Callback) -> Request,
    ) -> PyResult<()> {
        let py = slf.py();
        let workers = &slf.get().workers;
        if ends_the_loop(py, &error) {
            return Err(error);
        }
        // The context is in use, so the callback has not run: if it had, its context would be free again.
        if workers.holds_context(callback.context.bind(py)) {
            workers.defer(py, put_back(callback));
            return Ok(());
        }
        let args = (error, &callback.callable, &callback.args, &callback.context);
        slf.call_method1(intern!(py, "_callback_failed"), args).map(drop)
    }

    /// Run an `asyncio.Handle`, which reports its own failures.
    fn run_foreign(slf: &Bound<'_, Self>, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        if handle.getattr(intern!(py, "_cancelled"))?.is_truthy()? {
            return Ok(());
        }
        let context = handle.getattr(intern!(py, "_context"))?;
        if slf.get().workers.holds_context(&context) {
            slf.get().workers.defer(py, Request::Foreign(handle.clone().unbind()));
            return Ok(());
        }
        let callback = handle.getattr(intern!(py, "_callback"))?;
        let carried = contract::enter_of(&context);
        let ran = handle.call_method0(intern!(py, "_run")).map(drop);
        contract::leave_of(&context, carried);
        contract::check(slf, || Some(callback))?;
        ran
    }
}

#[pymethods]
impl Dispatcher {
    /// Run ticks until `_stopping` is set; the loop's run_forever wraps it.
    fn _run_ticks(slf: &Bound<'_, Self>) -> PyResult<()> {
        Worker::run_home(slf)
    }

    /// Run one tick.
    fn _run_once(slf: &Bound<'_, Self>) -> PyResult<()> {
        Worker::at_home(slf, |worker| {
            current::kept(slf, || {
                if !Self::tick(slf, worker)? {
                    Workers::get_role_back(slf, worker)?;
                }
                Ok(())
            })
        })
    }
}
