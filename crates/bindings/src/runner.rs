//! Runners: the threads that can hold a dispatcher's role, and how each spends its life.
//!
//! The home thread is the one that runs the loop. The others stand by, go on watch, take over, run
//! bursts until they lose the role, stand by again, and end when they have been idle for a while.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{NonNull, null};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use pyo3::exceptions::{PyKeyError, PyMemoryError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::{ffi, intern};
use threadlets_core::fp;
use threadlets_core::takeover::{Bell, Candidate, Ring, Role, RunnerId, Watcher};

use crate::contract::CtypesErrno;
use crate::crew::Crew;
use crate::dispatcher::Dispatcher;
use crate::interpreter::{self, Interpreter, NativeThread};
use crate::turn::Ended;

/// How long a dispatcher that cannot end the loop waits after a failure of it: the next one may be the same.
const RETRY: Duration = Duration::from_millis(1);

/// How long a thread stays although there is nothing for it to do.
const IDLE: Duration = Duration::from_secs(1);

thread_local! {
    /// The runner that this thread is; the innermost, should a threadlet run a loop of its own.
    static CURRENT: Cell<*const Runner> = const { Cell::new(null()) };
}

/// One thread of a dispatcher's crew.
#[derive(Debug)]
pub(crate) struct Runner {
    dispatcher: Py<Dispatcher>,
    pub(crate) id: RunnerId,
    /// As `threading.get_ident()` gives it.
    pub(crate) thread_id: u64,
    pub(crate) ctypes_errno: CtypesErrno,
}

impl Runner {
    fn new(slf: &Bound<'_, Dispatcher>, id: RunnerId) -> Self {
        // SAFETY: asks for the number of this thread.
        let thread_id = unsafe { ffi::PyThread_get_thread_ident() };
        let ctypes_errno = CtypesErrno::of_this_thread(slf.py());
        Self { dispatcher: slf.clone().unbind(), id, thread_id: thread_id as u64, ctypes_errno }
    }

    /// Use the runner that this thread is, if it is one.
    #[inline]
    pub(crate) fn with_current<R>(use_runner: impl FnOnce(Option<&Self>) -> R) -> R {
        let current = CURRENT.get();
        // SAFETY: the pointer is set for as long as `as_current` runs, which keeps the runner alive.
        use_runner(NonNull::new(current.cast_mut()).map(|it| unsafe { &*it.as_ptr() }))
    }

    /// Be no runner while `work` runs: it may run loops of its own in this thread.
    pub(crate) fn hidden<R>(work: impl FnOnce() -> R) -> R {
        Self::replaced(null(), work)
    }

    /// The dispatcher to whose crew the runner belongs.
    #[inline]
    pub(crate) fn dispatcher<'a, 'py>(&'a self, py: Python<'py>) -> &'a Bound<'py, Dispatcher> {
        self.dispatcher.bind(py)
    }

    pub(crate) fn is_home(&self) -> bool {
        self.id == RunnerId::HOME
    }

    /// Be this thread's runner while `work` runs.
    fn as_current<R>(&self, work: impl FnOnce() -> R) -> R {
        Self::replaced(self, work)
    }

    fn replaced<R>(current: *const Self, work: impl FnOnce() -> R) -> R {
        struct Restore(*const Runner);
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
        let crew = &slf.get().crew;
        if crew.role.owner().is_some() {
            // Somebody turns a running loop's crank by hand: from inside one of its own requests.
            return Self::with_current(|runner| match runner {
                Some(runner) if runner.dispatcher(py).is(slf) => work(runner),
                _ => Err(PyRuntimeError::new_err("This event loop is already running")),
            });
        }
        let runner = Self::new(slf, RunnerId::HOME);
        let presence = Presence::begin(py, &crew.role, runner.id)?;
        let taken = crew.roster.with(py, |roster| crew.role.take(roster, runner.id));
        assert!(taken.is_some(), "a role that nobody holds is for home");
        // Whoever runs the loop finds again what it had.
        let before = fp::State::read();
        fp::State::DEFAULT.restore();
        let outcome = runner.as_current(|| work(&runner));
        before.restore();
        crew.roster.with(py, |roster| crew.role.vacate(roster));
        presence.end(py);
        outcome
    }

    /// Run bursts on the home thread until the loop is to stop.
    pub(crate) fn run_home(slf: &Bound<'_, Dispatcher>) -> PyResult<()> {
        let py = slf.py();
        let crew = &slf.get().crew;
        Self::at_home(slf, |runner| {
            loop {
                let ended = Dispatcher::dispatch(slf, runner);
                if ended.is_err() && !crew.role.is_held_by(runner.id) {
                    // The loop ends here, but not while another thread runs it.
                    Crew::get_role_back(slf, runner)?;
                }
                let ended = ended?;
                crew.take_pending(py)?;
                match ended {
                    Ended::Stopped => return Ok(()),
                    Ended::RoleLost => Crew::get_role_back(slf, runner)?,
                }
                crew.take_pending(py)?;
            }
        })
    }

    /// Start a thread that begins on watch; whether it could be started.
    pub(crate) fn spawn(slf: &Bound<'_, Dispatcher>, id: RunnerId) -> bool {
        let py = slf.py();
        let this = slf.get();
        let life = Life {
            dispatcher: slf.clone().unbind(),
            id,
            role: Arc::clone(&this.crew.role),
            watcher: Arc::clone(&this.crew.watcher),
            farewell: Arc::clone(&this.crew.farewell),
        };
        life.role.record(id).bell.ring(Ring::WATCH);
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

/// What the thread state's dictionary keeps, so that it goes with the thread state.
#[pyclass(frozen, module = "threadlets._core")]
struct Wiper {
    role: Arc<Role>,
    id: RunnerId,
    /// Another thread may have the number by now.
    is_over: AtomicBool,
}

impl Presence {
    /// This thread can be the dispatcher.
    fn begin(py: Python<'_>, role: &Arc<Role>, id: RunnerId) -> PyResult<Self> {
        let wiper =
            Py::new(py, Wiper { role: Arc::clone(role), id, is_over: AtomicBool::new(false) })?;
        let kept = interpreter::thread_dict(py).ok_or_else(|| PyMemoryError::new_err(()))?;
        kept.set_item(&wiper, py.None())?;
        role.record(id).traces.appear(interpreter::thread_state(py));
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
            self.role.record(self.id).traces.vanish();
        }
    }
}

impl Drop for Wiper {
    fn drop(&mut self) {
        self.wipe();
    }
}

/// A thread's life, from its start on.
struct Life {
    dispatcher: Py<Dispatcher>,
    id: RunnerId,
    role: Arc<Role>,
    watcher: Arc<Watcher>,
    farewell: Arc<Bell>,
}

impl Life {
    fn live(self, mut thread: NativeThread) {
        fp::begin_thread();
        let record = self.role.record(self.id);
        let mut presence = None;
        loop {
            let heard = record.bell.wait(Ring::WATCH, Some(IDLE));
            if heard.has(Ring::STOP) {
                break;
            }
            if heard.has(Ring::WATCH) {
                let stays = match self.watcher.watch(self.id, IDLE) {
                    Some(candidate) => {
                        thread.with_gil(|py| self.take_over(py, candidate, &mut presence));
                        true
                    }
                    None => thread.with_gil(|py| self.stays_after_watch(py)),
                };
                if !stays {
                    break;
                }
            } else if thread.with_gil(|py| self.retires(py)) {
                break;
            }
        }
        let Self { dispatcher, id, role, farewell, .. } = self;
        thread.end(|py| {
            let slf = dispatcher.bind(py);
            if let Some(presence) = presence {
                presence.end(py);
                if let Err(error) = slf.call_method0(intern!(py, "_runner_left")) {
                    error.write_unraisable(py, Some(slf));
                }
            }
            let crew = &slf.get().crew;
            crew.roster.with(py, |roster| {
                if role.on_duty() == Some(id) {
                    role.relieve();
                }
                roster.retire(id);
                roster.ended(id);
            });
            if !crew.is_stopped.load(Relaxed) {
                slf.get().hold_calls(py, false);
            }
            drop(dispatcher);
        });
        farewell.ring(Ring::WAKE);
    }

    /// Take the role from a dispatcher that is blocked, run bursts until it is lost, stand by.
    fn take_over(&self, py: Python<'_>, candidate: Candidate, presence: &mut Option<Presence>) {
        let slf = self.dispatcher.bind(py);
        let this = slf.get();
        let crew = &this.crew;
        let seq = candidate.seq;
        let taken = crew.roster.with(py, |roster| self.role.take_over(roster, self.id, seq));
        let Some(taken) = taken else {
            // It has returned meanwhile: back on watch.
            self.role.record(self.id).bell.ring(Ring::WATCH);
            return;
        };
        crew.count(candidate.cause);
        let runner = Runner::new(slf, self.id);
        runner.as_current(|| {
            Crew::gained(slf, &runner, Some(taken));
            if presence.is_none()
                && let Err(error) = Self::join(slf, self.id, presence)
            {
                error.write_unraisable(py, Some(slf));
            }
            Crew::tell_of_move(slf, &runner, taken);
            while let Err(error) = Dispatcher::dispatch(slf, &runner) {
                // Only the home thread can end the loop, once it is back.
                crew.set_pending(py, error);
                // What has failed may have been the poll, which comes before any boundary.
                if !crew.keeps_role(py, &runner) {
                    break;
                }
                py.detach(|| std::thread::sleep(RETRY));
            }
        });
        crew.roster.with(py, |roster| roster.stand_by(self.id));
        this.hold_calls(py, false);
    }

    /// The thread holds the role for the first time.
    fn join(
        slf: &Bound<'_, Dispatcher>,
        id: RunnerId,
        presence: &mut Option<Presence>,
    ) -> PyResult<()> {
        let py = slf.py();
        *presence = Some(Presence::begin(py, &slf.get().crew.role, id)?);
        slf.call_method1(intern!(py, "_runner_joined"), (id.index(),)).map(drop)
    }

    /// The watch ended without a candidate; whether this thread is needed all the same.
    fn stays_after_watch(&self, py: Python<'_>) -> bool {
        let crew = &self.dispatcher.get().crew;
        crew.roster.with(py, |_| {
            let is_idle = self.role.inside().is_none();
            if is_idle || crew.is_stopped.load(Relaxed) {
                self.role.relieve();
                return false;
            }
            // A threadlet has begun just now, and counts on us.
            self.role.record(self.id).bell.ring(Ring::WATCH);
            true
        })
    }

    /// Nothing happened for a while; whether this thread may end.
    fn retires(&self, py: Python<'_>) -> bool {
        let crew = &self.dispatcher.get().crew;
        crew.roster.with(py, |roster| roster.retire(self.id))
    }
}
