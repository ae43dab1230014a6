//! `CallBeside`: a call beside the dispatcher, as the future that its awaiter waits for.

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use threadlets_core::EntryPoint;

use super::beside;
use super::call_object::CallObject;
use super::job::Ran;
use super::pool::Pool;
use crate::contract::in_context;
use crate::dispatcher::Dispatcher;
use crate::dispatcher::request::Request;
use crate::dispatcher::worker::Worker;
use crate::dispatcher::workers::{Parked, Workers};
use crate::py::context::can_enter;
use crate::py::gil_cell::GilSlot;
use crate::py::interpreter;
use crate::task::current;
use crate::task::future::Future;
use crate::task::slots::{NativeClass, NativeFuture};
use crate::task::task::Task;

/// A call beside the dispatcher, as the future that its awaiter waits for.
///
/// Cancelling the future withdraws the call if it has not begun, and does nothing if it has: a function
/// cannot be stopped. The awaiter gets its cancellation when the function has returned.
#[pyclass(frozen, extends = Future, module = "threadlets._core")]
#[derive(Debug)]
pub(crate) struct CallBeside {
    /// The `CallObject`, until the call begins or is withdrawn.
    pub(super) call: GilSlot<Option<Py<PyAny>>>,
    /// The context in which the call is awaited, if there is one.
    pub(super) context: Option<Py<PyAny>>,
    /// The task that awaits the call.
    pub(super) task: Option<Py<PyAny>>,
    pub(super) pool: Option<Py<Pool>>,
    pub(super) function: EntryPoint,
}

impl NativeFuture for CallBeside {
    const CLASS: NativeClass = NativeClass::CallBeside;
}

impl CallBeside {
    /// Queue a call for a worker; returns the future of its result.
    pub(crate) fn submit<'py>(
        slf: &Bound<'py, Dispatcher>,
        call: Py<PyAny>,
        pool: Option<Py<Pool>>,
        function: EntryPoint,
    ) -> PyResult<Bound<'py, Self>> {
        let py = slf.py();
        let this = slf.get();
        this.check_closed()?;
        let future = Future::new(slf.clone().unbind());
        future.remember_source(py)?;
        let call = Self {
            call: GilSlot::new(Some(call)),
            context: interpreter::context(py),
            task: current::get(slf)?.map(Bound::unbind),
            pool,
            function,
        };
        let call = Bound::new(py, PyClassInitializer::from(future).add_subclass(call))?;
        beside::submit(slf, call.as_any());
        Ok(call)
    }

    /// Withdraw the call and cancel its future; `false` if the call has begun.
    fn withdraw(slf: &Bound<'_, Self>, message: Option<Py<PyAny>>) -> PyResult<bool> {
        let py = slf.py();
        let this = slf.get();
        if this.call.take(py).is_none() {
            return Ok(false);
        }
        this.leave_pool(slf.as_super().get().dispatcher.bind(py));
        Future::cancel_with(slf.as_super(), message)
    }

    /// Cancel the awaiting task once more: the function's error was raised in the place of its cancellation.
    pub(crate) fn recancel_awaiter(slf: &Bound<'_, Self>) -> PyResult<()> {
        let Some(task) = &slf.get().task else { return Ok(()) };
        let task = task.bind(slf.py());
        match task.cast::<Task>() {
            Ok(native) => native.get().must_cancel.set(slf.py(), true),
            // asyncio's own task, which is running: `uncancel` keeps its count of cancellations as it was.
            Err(_) => {
                task.call_method0(intern!(slf.py(), "cancel"))?;
                task.call_method0(intern!(slf.py(), "uncancel"))?;
            }
        }
        Ok(())
    }

    pub(super) fn leave_pool(&self, slf: &Bound<'_, Dispatcher>) {
        if let Some(pool) = &self.pool {
            pool.get().finish(slf.py(), slf, false);
        }
    }

    /// Call the function on this thread. An `Err` is a fault of this library, not of the function.
    pub(super) fn run(
        beside: &Bound<'_, Self>,
        slf: &Bound<'_, Dispatcher>,
        worker: &Worker,
    ) -> PyResult<Ran> {
        let py = slf.py();
        let this = beside.get();
        let Some(call) = this.call.take(py) else { return Ok(Ran::default()) };
        if let Some(context) = &this.context
            && !can_enter(py, context.bind(py))
        {
            // Something else runs in the context at this moment: queue the call again.
            drop(this.call.replace(py, Some(call)));
            slf.get().submit(py, Request::Beside(beside.clone().into_any().unbind()))?;
            return Ok(Ran::default());
        }
        // SAFETY: `call` is a `CallObject`, and keeps it alive.
        let object = unsafe { &*call.as_ptr().cast::<CallObject>() };
        let callable = object.callable();
        let parked = Parked::new(
            // SAFETY: the call keeps its function alive.
            unsafe { Bound::from_borrowed_ptr(py, callable) }.unbind(),
            this.pool.as_ref().and_then(|it| it.get().key(py)),
            this.task.as_ref().map(|it| it.clone_ref(py)),
            None,
            worker.thread_id,
        );
        slf.get().workers.keep_parked(py, worker.id, parked);
        let outcome = current::named(slf, this.task.as_ref(), || match &this.context {
            Some(context) => in_context(py, context, || object.call_function(slf)),
            None => object.call_function(slf),
        });
        drop(Workers::unpark(slf, worker));
        this.leave_pool(slf);
        drop(call);
        if slf.get().check_closed().is_err() {
            // Nothing waits for the result any more.
            return Ok(Ran::default());
        }
        // Not claimed earlier: dropping the objects above may run code that waits for the dispatcher to wake.
        let wakes = slf.get().claim_wake();
        match outcome {
            Ok(result) => Future::resolve(beside.as_super(), result),
            Err(error) => Future::fail(beside.as_super(), error.into_value(py).into_bound(py)),
        }?;
        Ok(Ran { function: Some(this.function), wakes })
    }
}

#[pymethods]
impl CallBeside {
    /// Withdraw the call. Return False if it has begun: a function cannot be cancelled before it returns.
    #[pyo3(signature = (msg=None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<Py<PyAny>>) -> PyResult<bool> {
        Self::withdraw(slf, msg)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.call.traverse(&visit, |call| visit.call(call))?;
        visit.call(&self.context)?;
        visit.call(&self.task)?;
        visit.call(&self.pool)
    }
}
