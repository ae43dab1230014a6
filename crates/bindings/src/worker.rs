//! Workers: the threads that can hold a dispatcher's role, and how each spends its life.
//!
//! The home thread is the one that runs the loop. The others stand by, go on watch, take over, run
//! ticks until they lose the role, stand by again, and end when they have been idle for a while.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{NonNull, null};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use pyo3::exceptions::{PyKeyError, PyMemoryError, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use threadlets_core::takeover::{
    self, Candidate, Monitor, Noticed, Parker, Role, ThreadTraits, WakeReason, WorkerId,
};
use threadlets_core::{Poller, fp};

use crate::beside::Worked;
use crate::contract::CtypesErrno;
use crate::dispatcher::Dispatcher;
use crate::gil_cell::GilSlot;
use crate::greenlets::{self, GreenletTrace};
use crate::interpreter::{self, Interpreter, NativeThread};
use crate::task::current;
use crate::tick::Ended;
use crate::workers::Workers;

/// How long a dispatcher that cannot end the loop waits after a failure of it: the next one may be the same.
const RETRY: Duration = Duration::from_millis(1);

/// How long a thread stays although there is nothing for it to do.
const IDLE: Duration = Duration::from_secs(1);

thread_local! {
    /// The worker that this thread is; the innermost, should a threadlet run a loop of its own.
    static CURRENT: Cell<*const Worker> = const { Cell::new(null()) };
}

/// One thread of a dispatcher's workers.
#[derive(Debug)]
pub(crate) struct Worker {
    dispatcher: Py<Dispatcher>,
    pub(crate) id: WorkerId,
    /// As `threading.get_ident()` gives it.
    pub(crate) thread_id: u64,
    pub(crate) ctypes_errno: CtypesErrno,
    /// What traces the greenlets of this thread.
    pub(crate) greenlets: GilSlot<Option<Py<GreenletTrace>>>,
}

impl Worker {
    fn new(slf: &Bound<'_, Dispatcher>, id: WorkerId) -> Self {
        let ctypes_errno = CtypesErrno::of_this_thread(slf.py());
        Self {
            dispatcher: slf.clone().unbind(),
            id,
            thread_id: interpreter::this_thread(),
            ctypes_errno,
            greenlets: GilSlot::default(),
        }
    }

    /// Use the worker that this thread is, if it is one.
    #[inline]
    pub(crate) fn with_current<R>(use_worker: impl FnOnce(Option<&Self>) -> R) -> R {
        let current = CURRENT.get();
        // SAFETY: the pointer is set for as long as `as_current` runs, which keeps the worker alive.
        use_worker(NonNull::new(current.cast_mut()).map(|it| unsafe { &*it.as_ptr() }))
    }

    /// Be no worker while `work` runs: it may run loops of its own in this thread.
    pub(crate) fn hidden<R>(work: impl FnOnce() -> R) -> R {
        Self::replaced(null(), work)
    }

    /// The dispatcher to whose workers the worker belongs.
    #[inline]
    pub(crate) fn dispatcher<'a, 'py>(&'a self, py: Python<'py>) -> &'a Bound<'py, Dispatcher> {
        self.dispatcher.bind(py)
    }

    pub(crate) fn is_home(&self) -> bool {
        self.id == WorkerId::HOME
    }

    /// Be this thread's worker while `work` runs.
    fn as_current<R>(&self, work: impl FnOnce() -> R) -> R {
        Self::replaced(self, work)
    }

    fn replaced<R>(current: *const Self, work: impl FnOnce() -> R) -> R {
        struct Restore(*const Worker);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _restore = Restore(CURRENT.replace(current));
        work()
    }

    /// Hold the role on this thread, as the loop's home, while `work` runs.
    pub(crate) fn at_home(
        slf: &Bound<'_, Dispatcher>,
        work: impl FnOnce(&Self) -> PyResult<()>,
    ) -> PyResult<()> {
        let py = slf.py();
        let workers = &slf.get().workers;
        if workers.role.owner().is_some() {
            // Somebody turns a running loop's crank by hand: from inside one of its own requests.
            return Self::with_current(|worker| match worker {
                Some(worker) if worker.dispatcher(py).is(slf) => work(worker),
                _ => Err(PyRuntimeError::new_err("This event loop is already running")),
            });
        }
        let worker = Self::new(slf, WorkerId::HOME);
        let presence = Presence::begin(py, &workers.role, worker.id)?;
        let taken = workers.registry.with(py, |registry| workers.role.take(registry, worker.id));
        assert!(taken.is_some(), "a role that nobody holds is for home");
        // Whoever runs the loop finds again what it had.
        let before = fp::State::read();
        fp::State::DEFAULT.restore();
        greenlets::look(slf, &worker);
        let outcome = worker.as_current(|| work(&worker));
        greenlets::end_trace(py, &worker);
        before.restore();
        workers.registry.with(py, |registry| workers.role.vacate(registry));
        presence.end(py);
        outcome
    }

    /// Run ticks on the home thread until the loop is to stop.
    pub(crate) fn run_home(slf: &Bound<'_, Dispatcher>) -> PyResult<()> {
        let py = slf.py();
        let workers = &slf.get().workers;
        Self::at_home(slf, |worker| {
            loop {
                let ended = Dispatcher::dispatch(slf, worker);
                if ended.is_err() && !workers.role.is_held_by(worker.id) {
                    // The loop ends here, but not while another thread runs it.
                    Workers::get_role_back(slf, worker)?;
                }
                let ended = ended?;
                workers.take_pending(py)?;
                match ended {
                    Ended::Stopped => return Ok(()),
                    Ended::RoleLost => Workers::get_role_back(slf, worker)?,
                }
                workers.take_pending(py)?;
            }
        })
    }

    /// Start a thread that begins with what it is called for; whether it could be started.
    pub(crate) fn spawn(slf: &Bound<'_, Dispatcher>, id: WorkerId, call: WakeReason) -> bool {
        let py = slf.py();
        let this = slf.get();
        let shown = slf.call_method1(intern!(py, "_worker_starts"), (id.index(),));
        let shown = shown.and_then(|it| it.extract()).map_err(|error| {
            error.write_unraisable(py, Some(slf));
        });
        let life = Life {
            dispatcher: slf.clone().unbind(),
            shown: shown.ok(),
            id,
            role: Arc::clone(&this.workers.role),
            monitor: Arc::clone(&this.workers.monitor),
            exits: Arc::clone(&this.workers.exits),
        };
        life.role.slot(id).parker.unpark(call);
        let interpreter = Interpreter::current(py);
        let thread = std::thread::Builder::new()
            .name(format!("threadlets-{}", id.index()))
            .stack_size(interpreter::stack_size_bytes());
        thread
            .spawn(move || {
                // Moved in whole: a thread that cannot be started drops it with the GIL held.
                let life = life;
                // A thread that panics may hold the role and the GIL: nobody could go on without.
                let live = || life.live(NativeThread::new(interpreter).expect("out of memory"));
                if catch_unwind(AssertUnwindSafe(live)).is_err() {
                    std::process::abort();
                }
            })
            .is_ok()
    }
}

/// The traces of a thread that can be the dispatcher. They lead to its thread state, which the
/// interpreter clears when it ends, whatever the thread does then: clearing wipes them.
struct Presence(Py<Wiper>);

/// A thread that holds the role, or calls functions: what it is from the first time on.
struct Joined {
    /// None if there was no memory for it: what it does cannot be seen then.
    presence: Option<Presence>,
    worker: Worker,
    is_known: bool,
}

impl Joined {
    /// Be known as such a thread.
    ///
    /// Before it runs any Python code `threading` knows it: what traces code asks for the current thread.
    fn introduce(&mut self, slf: &Bound<'_, Dispatcher>, life: &Life) {
        if std::mem::replace(&mut self.is_known, true) {
            return;
        }
        let py = slf.py();
        if let Some((thread, active)) = &life.shown
            && let Err(error) = active.bind(py).set_item(self.worker.thread_id, thread)
        {
            error.write_unraisable(py, Some(slf));
        }
        let (id, presence) = (self.worker.id, &mut self.presence);
        let began = Presence::begin(py, &slf.get().workers.role, id).and_then(|it| {
            *presence = Some(it);
            current::begin_thread(slf)?;
            slf.call_method1(intern!(py, "_worker_joined"), (id.index(),)).map(drop)
        });
        if let Err(error) = began {
            error.write_unraisable(py, Some(slf));
        }
    }
}

/// What the thread state's dictionary keeps, so that it goes with the thread state.
#[pyclass(frozen, module = "threadlets._core")]
struct Wiper {
    role: Arc<Role>,
    id: WorkerId,
    /// Another thread may have the number by now.
    is_over: AtomicBool,
}

impl Presence {
    /// This thread can be the dispatcher.
    fn begin(py: Python<'_>, role: &Arc<Role>, id: WorkerId) -> PyResult<Self> {
        let wiper =
            Py::new(py, Wiper { role: Arc::clone(role), id, is_over: AtomicBool::new(false) })?;
        let kept = interpreter::thread_dict(py).ok_or_else(|| PyMemoryError::new_err(()))?;
        kept.set_item(&wiper, py.None())?;
        role.slot(id).traces.attach(interpreter::thread_state(py));
        Ok(Self(wiper))
    }

    /// It can no more.
    fn end(self, py: Python<'_>) {
        self.0.get().wipe();
        // Gone already if code has emptied the dictionary, and then there is no more to do.
        if let Some(Err(error)) = interpreter::thread_dict(py).map(|it| it.del_item(&self.0))
            && !error.is_instance_of::<PyKeyError>(py)
        {
            error.write_unraisable(py, None);
        }
    }
}

impl Wiper {
    fn wipe(&self) {
        if !self.is_over.swap(true, Relaxed) {
            self.role.slot(self.id).traces.detach();
        }
    }
}

impl Drop for Wiper {
    fn drop(&mut self) {
        self.wipe();
    }
}

/// What a thread does next.
enum Next {
    /// Wait until it is called.
    StandBy,
    /// Wait a little for the work that it was called for.
    LookAgain,
    End,
}

/// A thread's life, from its start on.
struct Life {
    dispatcher: Py<Dispatcher>,
    /// What `threading` knows the thread by, and where it looks that up by the thread's number.
    shown: Option<(Py<PyAny>, Py<PyDict>)>,
    id: WorkerId,
    role: Arc<Role>,
    monitor: Arc<Monitor>,
    exits: Arc<Parker>,
}

impl Life {
    fn live(self, mut thread: NativeThread) {
        fp::begin_thread();
        ThreadTraits::give_way(true);
        let slot = self.role.slot(self.id);
        let mut joined = None;
        let mut patience = IDLE;
        loop {
            let heard = slot
                .parker
                .park(WakeReason::MONITOR | WakeReason::WORK | WakeReason::ASK, Some(patience));
            if heard.has(WakeReason::STOP) {
                break;
            }
            // One after the other: what comes later rings again.
            let looks_again = patience != IDLE;
            let work = if looks_again { WakeReason::WORK } else { heard & WakeReason::WORK };
            let next = if heard.has(WakeReason::MONITOR) {
                slot.parker.unpark(work | (heard & WakeReason::ASK));
                match self.monitor.watch(self.id, IDLE) {
                    Noticed::Found(candidate) => thread.with_gil(|py| {
                        self.take_over(py, candidate, &mut joined);
                        Next::StandBy
                    }),
                    Noticed::Work => thread.with_gil(|py| {
                        self.leave_watch(py);
                        Next::StandBy
                    }),
                    Noticed::Nothing => thread.with_gil(|py| self.stays_after_watch(py)),
                }
            } else if heard.has(WakeReason::ASK) {
                slot.parker.unpark(work);
                thread.with_gil(|py| self.serve(py, &mut joined))
            } else if heard.has(WakeReason::WORK) || looks_again {
                let (next, sleeps_at) = thread.with_gil(|py| self.work(py, &mut joined));
                // Not before: it would wake to wait for the GIL.
                if let Some(poller) = sleeps_at {
                    let _ = poller.wake();
                }
                next
            } else {
                thread.with_gil(|py| self.retires(py))
            };
            patience = match next {
                Next::StandBy => IDLE,
                Next::LookAgain => Duration::from_nanos(takeover::LOOK_NS),
                Next::End => break,
            };
        }
        let Self { dispatcher, shown, id, role, exits, .. } = self;
        thread.end(|py| {
            drop(shown);
            let slf = dispatcher.bind(py);
            if let Some(Joined { presence, worker, .. }) = joined {
                greenlets::end_trace(py, &worker);
                if let Some(presence) = presence {
                    presence.end(py);
                }
                if let Err(error) = slf.call_method0(intern!(py, "_worker_left")) {
                    error.write_unraisable(py, Some(slf));
                }
            }
            let workers = &slf.get().workers;
            workers.registry.with(py, |registry| {
                if role.monitor() == Some(id) {
                    role.relieve();
                }
                registry.retire(id);
                registry.ended(id);
            });
            if !workers.is_stopped.load(Relaxed) {
                slf.get().hold_calls(py, false);
                if role.slot(id).parker.take(WakeReason::WORK).has(WakeReason::WORK) {
                    // Called from the watch when that was over.
                    workers.beside.with(py, |beside| beside.arrived());
                }
                Workers::summon(slf);
            }
            drop(dispatcher);
        });
        exits.unpark(WakeReason::WAKE);
        ThreadTraits::outlive_children();
    }

    /// Take the role from a dispatcher that is blocked, run ticks until it is lost, stand by.
    fn take_over(&self, py: Python<'_>, candidate: Candidate, joined: &mut Option<Joined>) {
        let slf = self.dispatcher.bind(py);
        let this = slf.get();
        let workers = &this.workers;
        let seq = candidate.seq;
        let taken =
            workers.registry.with(py, |registry| self.role.take_over(registry, self.id, seq));
        let Some(taken) = taken else {
            // It has returned meanwhile: back on watch.
            self.role.slot(self.id).parker.unpark(WakeReason::MONITOR);
            return;
        };
        workers.count(candidate.cause);
        let joined = Self::worker(slf, self.id, joined);
        joined.worker.as_current(|| Workers::gained(slf, &joined.worker, Some(taken)));
        if self.role.slot(self.id).parker.take(WakeReason::WORK).has(WakeReason::WORK) {
            // Called from the watch to work, for which it has no time now.
            workers.beside.with(py, |beside| beside.arrived());
            Workers::summon(slf);
        }
        joined.introduce(slf, self);
        Workers::tell_of_move(slf, &joined.worker, taken);
        self.dispatch(slf, &joined.worker);
        self.stand_by(slf);
    }

    /// Run ticks until the role is lost.
    fn dispatch(&self, slf: &Bound<'_, Dispatcher>, worker: &Worker) {
        let py = slf.py();
        let workers = &slf.get().workers;
        ThreadTraits::give_way(false);
        worker.as_current(|| {
            while let Err(error) = Dispatcher::dispatch(slf, worker) {
                // Only the home thread can end the loop, once it is back.
                workers.set_pending(py, error);
                // What has failed may have been the poll, which comes before any boundary.
                if !workers.keeps_role(py, worker) {
                    break;
                }
                py.detach(|| std::thread::sleep(RETRY));
            }
        });
        ThreadTraits::give_way(true);
    }

    /// Take the steps of what belongs to this thread; if nothing does any more, stand by.
    fn serve(&self, py: Python<'_>, joined: &mut Option<Joined>) -> Next {
        let slf = self.dispatcher.bind(py);
        let workers = &slf.get().workers;
        if let Some(Joined { worker, .. }) = joined
            && workers.has_steps(py, self.id)
        {
            let outcome = worker.as_current(|| Workers::get_role_back(slf, worker));
            match outcome {
                Ok(()) => self.dispatch(slf, worker),
                Err(error) if workers.role.is_held_by(self.id) => {
                    workers.set_pending(py, error);
                    self.dispatch(slf, worker);
                }
                // The loop was closed.
                Err(_) => return Next::StandBy,
            }
        }
        self.stand_by(slf);
        Next::StandBy
    }

    /// Do the work that waits beside the dispatcher, and stand by; and where the dispatcher is to be woken then.
    fn work(&self, py: Python<'_>, joined: &mut Option<Joined>) -> (Next, Option<Arc<Poller>>) {
        let slf = self.dispatcher.bind(py);
        if self.role.monitor() == Some(self.id) {
            // Called to the watch as well, which comes first.
            self.role.slot(self.id).parker.unpark(WakeReason::WORK);
            return (Next::StandBy, None);
        }
        let workers = &slf.get().workers;
        if workers.is_tied(py, self.id) {
            // Called from the watch, and since then something belongs to it: another is to come.
            workers.beside.with(py, |beside| beside.arrived());
            Workers::summon(slf);
            return (Next::StandBy, None);
        }
        // Called from the watch, it may stand by since: nothing else is to call it.
        workers.registry.with(py, |registry| registry.retire(self.id));
        let joined = Self::worker(slf, self.id, joined);
        joined.introduce(slf, self);
        let Worked { is_done, sleeps_at } =
            joined.worker.as_current(|| Workers::work(slf, &joined.worker));
        if !is_done {
            return (Next::LookAgain, sleeps_at);
        }
        self.stand_by(slf);
        (Next::StandBy, sleeps_at)
    }

    /// Leave the watch for the work that waits, unless a threadlet has begun.
    fn leave_watch(&self, py: Python<'_>) {
        let workers = &self.dispatcher.get().workers;
        let parker = &self.role.slot(self.id).parker;
        workers.registry.with(py, |_| {
            if self.role.inside().is_none() {
                self.role.relieve();
            } else {
                parker.unpark(WakeReason::MONITOR);
            }
        });
        parker.unpark(WakeReason::WORK);
    }

    /// Wait to be called; for what waits already, at once. A thread to which something belongs is not called for
    /// anything else.
    fn stand_by(&self, slf: &Bound<'_, Dispatcher>) {
        let py = slf.py();
        let workers = &slf.get().workers;
        let is_on_duty = self.role.monitor() == Some(self.id);
        if workers.has_steps(py, self.id) {
            // A step has failed, and the role went to another thread before the others were taken.
            self.role.slot(self.id).parker.unpark(WakeReason::ASK);
            return;
        }
        if is_on_duty || workers.is_tied(py, self.id) {
            return;
        }
        workers.registry.with(py, |registry| {
            if !registry.stands_by(self.id) {
                registry.stand_by(self.id);
            }
        });
        slf.get().hold_calls(py, false);
        Workers::summon(slf);
    }

    /// The worker that this thread is, from the first time that it holds the role or calls functions. Runs no
    /// Python code.
    fn worker<'a>(
        slf: &Bound<'_, Dispatcher>,
        id: WorkerId,
        joined: &'a mut Option<Joined>,
    ) -> &'a mut Joined {
        let new = || Joined { presence: None, worker: Worker::new(slf, id), is_known: false };
        joined.get_or_insert_with(new)
    }

    /// The watch ended without a candidate; whether this thread is needed all the same.
    fn stays_after_watch(&self, py: Python<'_>) -> Next {
        let workers = &self.dispatcher.get().workers;
        workers.registry.with(py, |_| {
            let is_idle = self.role.inside().is_none();
            if is_idle || workers.is_stopped.load(Relaxed) {
                self.role.relieve();
                return Next::End;
            }
            // A threadlet has begun just now, and counts on us.
            self.role.slot(self.id).parker.unpark(WakeReason::MONITOR);
            Next::StandBy
        })
    }

    /// Nothing happened for a while; whether this thread may end.
    fn retires(&self, py: Python<'_>) -> Next {
        let workers = &self.dispatcher.get().workers;
        let is_over = workers.registry.with(py, |registry| registry.retire(self.id));
        if is_over { Next::End } else { Next::StandBy }
    }
}
