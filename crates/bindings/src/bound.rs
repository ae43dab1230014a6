//! Tasks that belong to a thread: those with live greenlets, and those that called `threadlets.stay()`.
//!
//! The dispatcher's role passes from thread to thread, but such a task takes its steps on one of them
//! (`takeover::Bound`). While something is tied to a thread, no function is called inline there, so that the
//! role is not taken from it.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::PyTraverseError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use threadlets_core::takeover::{WakeReason, WorkerId};

use crate::dispatcher::Dispatcher;
use crate::gil_cell::GilSlot;
use crate::greenlets;
use crate::request::Request;
use crate::task::current;
use crate::task::task::Task;
use crate::worker::Worker;
use crate::workers::Workers;

impl Workers {
    /// Tie one more thing to a thread, and with it a task, if it belongs to one.
    pub(crate) fn tie(&self, py: Python<'_>, worker: WorkerId, task: Option<&Task>) {
        self.bound.with(py, |bound| bound.tie(worker));
        self.n_ties.fetch_add(1, Relaxed);
        if let Some(task) = task {
            task.tie(py, worker);
        }
    }

    /// Undo one `tie`.
    pub(crate) fn untie(&self, py: Python<'_>, worker: WorkerId, task: Option<&Task>) {
        if let Some(task) = task {
            task.untie(py);
        }
        self.n_ties.fetch_sub(1, Relaxed);
        let is_free = self.bound.with(py, |bound| bound.untie(worker));
        if is_free && worker != WorkerId::HOME {
            // It may be idle again.
            self.role.slot(worker).parker.unpark(WakeReason::ASK);
        }
    }

    /// Whether something is tied to a thread, which then does not end and is given no other work.
    #[inline]
    pub(crate) fn is_tied(&self, py: Python<'_>, worker: WorkerId) -> bool {
        self.n_ties.load(Relaxed) > 0 && self.bound.with(py, |bound| bound.is_tied(worker))
    }

    /// Whether a function may block this thread, so that the role moves.
    #[inline]
    pub(crate) fn may_block(&self, py: Python<'_>, worker: WorkerId) -> bool {
        if !self.is_tied(py, worker) {
            return true;
        }
        greenlets::reap(py);
        !self.is_tied(py, worker)
    }

    /// Hand a task's next step over to the thread that the task belongs to.
    #[cold]
    pub(crate) fn hand_over(&self, task: &Bound<'_, Task>, worker: WorkerId) {
        let py = task.py();
        let step = Request::Step(task.clone().unbind());
        self.bound.with(py, |bound| bound.hand_over(worker, step));
        self.n_handed_over.fetch_add(1, Relaxed);
        if worker != WorkerId::HOME {
            self.role.slot(worker).parker.unpark(WakeReason::ASK);
        }
    }

    /// Take the steps that were handed over to this thread, which has the role; returns whether it still has.
    #[inline]
    pub(crate) fn take_steps(slf: &Bound<'_, Dispatcher>, worker: &Worker) -> PyResult<bool> {
        if slf.get().workers.n_handed_over.load(Relaxed) == 0 {
            return Ok(true);
        }
        Self::take_own_steps(slf, worker)
    }

    #[cold]
    fn take_own_steps(slf: &Bound<'_, Dispatcher>, worker: &Worker) -> PyResult<bool> {
        let py = slf.py();
        let workers = &slf.get().workers;
        let steps = workers.bound.with(py, |bound| bound.take_steps(worker.id));
        workers.n_handed_over.fetch_sub(steps.len(), Relaxed);
        let mut steps = steps.into_iter();
        let mut outcome = Ok(());
        while outcome.is_ok() && workers.role.is_held_by(worker.id) {
            let Some(step) = steps.next() else { return Ok(true) };
            outcome = Dispatcher::run(slf, step).and_then(|()| Self::end_if_over(slf));
        }
        // The role went to another thread, or the loop ends: the steps that are left wait until the role is
        // here again.
        let left = steps.len();
        workers.bound.with(py, |bound| bound.put_back(worker.id, steps));
        workers.n_handed_over.fetch_add(left, Relaxed);
        outcome.map(|()| workers.role.is_held_by(worker.id))
    }

    /// Whether steps wait for this thread.
    pub(crate) fn has_steps(&self, py: Python<'_>, worker: WorkerId) -> bool {
        self.n_handed_over.load(Relaxed) > 0 && self.bound.with(py, |it| it.has_steps(worker))
    }

    /// Drop the steps that wait and all ties: the loop is closed.
    pub(crate) fn release_bound(&self, py: Python<'_>) {
        let steps = self.bound.with(py, |bound| bound.take_all());
        self.n_handed_over.store(0, Relaxed);
        drop(steps);
    }

    /// Visit the steps that wait, for the cycle collector.
    pub(crate) fn visit_bound(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.bound.traverse(visit, |bound| bound.steps().try_for_each(|it| it.traverse(visit)))
    }
}

/// What `threadlets.stay()` returns: until it ends, the task that called it takes its steps in one thread.
#[pyclass(frozen, module = "threadlets._core")]
pub(crate) struct Stay {
    /// `None` once the stay has ended.
    task: GilSlot<Option<Py<Task>>>,
    worker: WorkerId,
}

impl Stay {
    fn end(&self, py: Python<'_>) {
        if let Some(task) = self.task.take(py) {
            let workers = &task.bind(py).as_super().get().dispatcher.get().workers;
            if task.get().leaves(py) {
                workers.untie(py, self.worker, Some(task.get()));
            }
        }
    }
}

#[pymethods]
impl Stay {
    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exc_info))]
    fn __exit__(&self, py: Python<'_>, _exc_info: &Bound<'_, pyo3::types::PyTuple>) {
        self.end(py);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.task.traverse(&visit, |task| visit.call(task))
    }

    fn __clear__(&self, py: Python<'_>) {
        drop(self.task.take(py));
    }
}

/// Keep the current task in this thread, until it ends or the with-block of the returned object does.
#[pyfunction]
pub(crate) fn stay(py: Python<'_>) -> PyResult<Stay> {
    Worker::with_current(|worker| {
        let worker = worker.ok_or_else(|| {
            PyRuntimeError::new_err(
                "threadlets.stay() was called where no threadlets loop runs; call it in a task, \
                 within threadlets.run(main())",
            )
        })?;
        let slf = worker.dispatcher(py);
        let is_dispatcher = slf.get().workers.role.is_held_by(worker.id);
        let current = current::get(slf)?.filter(|_| is_dispatcher);
        let Some(task) = current else {
            return Err(PyRuntimeError::new_err(
                "threadlets.stay() was called outside of a task: only tasks go on after an await; \
                 call it in a coroutine of the task",
            ));
        };
        let task = task.cast_into::<Task>().map_err(|_| {
            PyRuntimeError::new_err(
                "threadlets.stay() was called in a task that is not the loop's own; make the loop with \
                 tasks=\"native\", and tasks with loop.create_task()",
            )
        })?;
        task.get().stays(py)?;
        slf.get().workers.tie(py, worker.id, Some(task.get()));
        Ok(Stay { task: GilSlot::new(Some(task.unbind())), worker: worker.id })
    })
}
