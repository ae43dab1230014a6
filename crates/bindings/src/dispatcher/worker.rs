//! A worker: a thread that can hold the dispatcher's role, and which worker this thread is.

use std::cell::Cell;
use std::ptr::{NonNull, null};

use pyo3::prelude::*;
use threadlets_core::takeover::WorkerId;

use super::Dispatcher;
use crate::py::ctypes_errno::CtypesErrno;
use crate::py::gil_cell::GilSlot;
use crate::py::interpreter;

thread_local! {
    /// The worker of this thread; the innermost one if a threadlet runs a loop of its own.
    static CURRENT: Cell<*const Worker> = const { Cell::new(null()) };
}

/// A thread that can hold a dispatcher's role.
#[derive(Debug)]
pub(crate) struct Worker {
    dispatcher: Py<Dispatcher>,
    pub(crate) id: WorkerId,
    /// As `threading.get_ident()` gives it.
    pub(crate) thread_id: u64,
    pub(crate) ctypes_errno: CtypesErrno,
    /// The `GreenletTrace` of this thread, if the program uses greenlets.
    pub(crate) greenlets: GilSlot<Option<Py<PyAny>>>,
}

impl Worker {
    pub(crate) fn new(slf: &Bound<'_, Dispatcher>, id: WorkerId) -> Self {
        let ctypes_errno = CtypesErrno::of_this_thread(slf.py());
        Self {
            dispatcher: slf.clone().unbind(),
            id,
            thread_id: interpreter::this_thread(),
            ctypes_errno,
            greenlets: GilSlot::default(),
        }
    }

    /// Pass this thread's worker, if it has one, to `use_worker`.
    #[inline]
    pub(crate) fn with_current<R>(use_worker: impl FnOnce(Option<&Self>) -> R) -> R {
        let current = CURRENT.get();
        // SAFETY: the pointer is set for as long as `as_current` runs, which keeps the worker alive.
        use_worker(NonNull::new(current.cast_mut()).map(|it| unsafe { &*it.as_ptr() }))
    }

    /// Run `work` without a current worker: it may run loops of its own in this thread.
    pub(crate) fn hidden<R>(work: impl FnOnce() -> R) -> R {
        Self::replaced(null(), work)
    }

    /// The dispatcher that the worker belongs to.
    #[inline]
    pub(crate) fn dispatcher<'a, 'py>(&'a self, py: Python<'py>) -> &'a Bound<'py, Dispatcher> {
        self.dispatcher.bind(py)
    }

    pub(crate) fn is_home(&self) -> bool {
        self.id == WorkerId::HOME
    }

    /// Run `work` with this as the thread's current worker.
    pub(crate) fn as_current<R>(&self, work: impl FnOnce() -> R) -> R {
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
}
