//! Binds tasks that have live greenlets to their threads: a greenlet runs only on the thread that started
//! it, and SQLAlchemy's asyncio and greenback keep greenlets across awaits.
//!
//! greenlet calls a thread's trace function at each switch. No trace function is set, and nothing is paid,
//! until the program imports the module.

use std::collections::HashMap;
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};

use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCapsule, PyDict, PyTuple};
use pyo3::{PyTraverseError, ffi, intern};
use threadlets_core::takeover::WorkerId;

use crate::dispatcher::Dispatcher;
use crate::dispatcher::worker::Worker;
use crate::py::cast::known;
use crate::py::gil_cell::{GilCell, GilSlot};
use crate::task::current;
use crate::task::task::Task;

/// A predicate of greenlet's C API.
type Look = unsafe extern "C" fn(*mut ffi::PyObject) -> std::ffi::c_int;

/// The module, and the functions of its C API that are used here.
#[derive(Debug)]
struct Greenlets {
    module: Py<PyAny>,
    is_main: Look,
    is_active: Look,
}

/// Indices of the functions in greenlet's C API table.
const IS_MAIN: usize = 8;
const IS_ACTIVE: usize = 10;

static GREENLETS: PyOnceLock<Greenlets> = PyOnceLock::new();

/// Size of `sys.modules` when greenlet was last looked for.
static N_MODULES: AtomicIsize = AtomicIsize::new(-1);

/// Whether a module was imported since greenlet was last looked for.
#[inline]
pub(crate) fn may_be_new(_py: Python<'_>) -> bool {
    n_modules() != N_MODULES.load(Relaxed)
}

fn n_modules() -> isize {
    // SAFETY: the GIL is held; the dictionary is the interpreter's, which keeps it.
    unsafe { (*ffi::PyImport_GetModuleDict().cast::<ffi::PyDictObject>()).ma_used }
}

impl Greenlets {
    /// greenlet, if the program has imported it.
    fn get(py: Python<'_>) -> Option<&'static Self> {
        if let Some(found) = GREENLETS.get(py) {
            return Some(found);
        }
        if !may_be_new(py) {
            return None;
        }
        Self::find(py).unwrap_or_else(|error| {
            error.write_unraisable(py, None);
            None
        })
    }

    #[cold]
    fn find(py: Python<'_>) -> PyResult<Option<&'static Self>> {
        // SAFETY: as above; it is a dictionary.
        let modules = unsafe {
            Bound::from_borrowed_ptr(py, ffi::PyImport_GetModuleDict()).cast_into::<PyDict>()?
        };
        let Some(module) = modules.get_item(intern!(py, "greenlet._greenlet"))? else {
            return Ok(None);
        };
        // A module that is being imported has no C API yet.
        let Some(capsule) = module.getattr_opt(intern!(py, "_C_API"))? else { return Ok(None) };
        let api = capsule.cast_into::<PyCapsule>()?;
        // SAFETY: the capsule holds greenlet's table of functions, in an order that has not changed since its
        // first stable version.
        let (is_main, is_active) = unsafe {
            let name = c"greenlet._C_API".as_ptr();
            let table = ffi::PyCapsule_GetPointer(api.as_ptr(), name).cast::<Option<Look>>();
            if table.is_null() {
                return Err(PyErr::fetch(py));
            }
            (*table.add(IS_MAIN), *table.add(IS_ACTIVE))
        };
        let (Some(is_main), Some(is_active)) = (is_main, is_active) else { return Ok(None) };
        let found = Self { module: module.unbind(), is_main, is_active };
        Ok(Some(GREENLETS.get_or_init(py, || found)))
    }

    fn is_main(&self, greenlet: &Bound<'_, PyAny>) -> bool {
        // SAFETY: greenlet's trace gives greenlets, which are alive.
        unsafe { (self.is_main)(greenlet.as_ptr()) != 0 }
    }

    fn is_active(&self, greenlet: &Bound<'_, PyAny>) -> bool {
        // SAFETY: as above.
        unsafe { (self.is_active)(greenlet.as_ptr()) != 0 }
    }
}

/// The trace function of one thread of one loop.
#[pyclass(frozen, module = "threadlets._core")]
pub(crate) struct GreenletTrace {
    dispatcher: GilSlot<Option<Py<Dispatcher>>>,
    worker: WorkerId,
    /// Greenlets that have begun and have not ended, by address, each with the task that it binds. An
    /// address is not reused before the greenlet's end was traced.
    live: GilCell<HashMap<usize, Option<Py<Task>>>>,
    /// The trace function that was set before; it is still called.
    before: Option<Py<PyAny>>,
}

impl GreenletTrace {
    /// Records a greenlet that has begun, or that was suspended before it could be traced.
    fn begins(&self, slf: &Bound<'_, Dispatcher>, place: usize, task: Option<Bound<'_, Task>>) {
        let py = slf.py();
        if self.live.with(py, |live| live.contains_key(&place)) {
            return;
        }
        slf.get().workers.add_binding(py, self.worker);
        if let Some(task) = &task {
            task.get().add_binding(py, self.worker);
        }
        let task = task.map(Bound::unbind);
        drop(self.live.with(py, |live| live.insert(place, task)));
    }

    fn ends(&self, slf: &Bound<'_, Dispatcher>, place: usize) {
        let py = slf.py();
        if let Some(task) = self.live.with(py, |live| live.remove(&place)) {
            self.remove_binding(slf, task);
        }
    }

    /// Stops tracing for this loop.
    fn end(&self, py: Python<'_>) {
        let Some(dispatcher) = self.dispatcher.take(py) else { return };
        let slf = dispatcher.bind(py);
        for (_, task) in self.live.with(py, std::mem::take) {
            self.remove_binding(slf, task);
        }
    }

    /// Untie a greenlet that has ended, and its task.
    fn remove_binding(&self, slf: &Bound<'_, Dispatcher>, task: Option<Py<Task>>) {
        if let Some(task) = task {
            task.get().remove_binding(slf.py());
        }
        slf.get().workers.remove_binding(slf.py(), self.worker);
    }
}

#[pymethods]
impl GreenletTrace {
    /// Handle a switch, after the fact; `greenlets` are the one that was left and the one that runs now.
    fn __call__(
        &self,
        py: Python<'_>,
        event: &Bound<'_, PyAny>,
        greenlets: &Bound<'_, PyTuple>,
    ) -> PyResult<()> {
        let dispatcher = self.dispatcher.with(py, |it| it.as_ref().map(|it| it.clone_ref(py)));
        if let (Some(dispatcher), Some(module)) = (dispatcher, GREENLETS.get(py)) {
            let slf = dispatcher.bind(py);
            let (origin, target) =
                (greenlets.get_borrowed_item(0)?, greenlets.get_borrowed_item(1)?);
            if !module.is_main(&target) && module.is_active(&target) {
                let task = if slf.get().workers.role.is_held_by(self.worker) {
                    current::get(slf)?.and_then(|it| it.cast_into::<Task>().ok())
                } else {
                    None
                };
                self.begins(slf, target.as_ptr() as usize, task);
            }
            if !module.is_main(&origin) && !module.is_active(&origin) {
                self.ends(slf, origin.as_ptr() as usize);
            }
        }
        match &self.before {
            Some(before) => before.call1(py, (event, greenlets)).map(drop),
            None => Ok(()),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.dispatcher.traverse(&visit, |dispatcher| visit.call(dispatcher))?;
        self.live.traverse(&visit, |live| live.values().try_for_each(|task| visit.call(task)))?;
        visit.call(&self.before)
    }

    fn __clear__(&self, py: Python<'_>) {
        drop(self.dispatcher.take(py));
        drop(self.live.with(py, std::mem::take));
    }
}

/// Trace the greenlets of this thread, which is `worker` and has the role, from now on, if the program uses
/// any. Called after each request in which a module was imported, and when a thread gets the role.
#[inline]
pub(crate) fn look(slf: &Bound<'_, Dispatcher>, worker: &Worker) {
    let py = slf.py();
    let was_known = GREENLETS.get(py).is_some();
    if let Some(module) = Greenlets::get(py)
        && let Err(error) = trace(slf, worker, module, !was_known)
    {
        error.write_unraisable(py, Some(slf));
    }
    N_MODULES.store(n_modules(), Relaxed);
}

/// `is_new`: the request that has just run has imported the module, and may have left greenlets suspended.
#[cold]
fn trace(
    slf: &Bound<'_, Dispatcher>,
    worker: &Worker,
    module: &'static Greenlets,
    is_new: bool,
) -> PyResult<()> {
    let py = slf.py();
    let greenlet = module.module.bind(py);
    if worker.greenlets.with(py, |it| it.is_some()) {
        return Ok(());
    }
    let now = greenlet.call_method0(intern!(py, "gettrace"))?;
    let before = (!now.is_none()).then(|| now.unbind());
    let trace = GreenletTrace {
        dispatcher: GilSlot::new(Some(slf.clone().unbind())),
        worker: worker.id,
        live: GilCell::default(),
        before,
    };
    let trace = Bound::new(py, trace)?;
    greenlet.call_method1(intern!(py, "settrace"), (&trace,))?;
    drop(worker.greenlets.replace(py, Some(trace.clone().into_any().unbind())));
    // The loop may run in a greenlet itself.
    let mut current = greenlet.call_method0(intern!(py, "getcurrent"))?;
    while !module.is_main(&current) {
        trace.get().begins(slf, current.as_ptr() as usize, None);
        current = current.getattr(intern!(py, "parent"))?;
    }
    if is_new {
        let task = current::get(slf)?.and_then(|it| it.cast_into::<Task>().ok());
        let kind = greenlet.getattr(intern!(py, "greenlet"))?;
        for object in py.import("gc")?.call_method0("get_objects")?.try_iter()? {
            let object = object?;
            if object.is_instance(&kind)?
                && !module.is_main(&object)
                && module.is_active(&object)
                && main_of(module, object.clone())?.is(&current)
            {
                trace.get().begins(slf, object.as_ptr() as usize, task.clone());
            }
        }
    }
    Ok(())
}

/// The main greenlet of the thread that a greenlet runs on.
fn main_of<'py>(
    module: &Greenlets,
    mut greenlet: Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    while !module.is_main(&greenlet) {
        greenlet = greenlet.getattr(intern!(greenlet.py(), "parent"))?;
    }
    Ok(greenlet)
}

/// End greenlets of this thread whose last reference was dropped on another thread. greenlet ends them at
/// the next call of its API on this thread; they are live until then.
pub(crate) fn reap(py: Python<'_>) {
    if let Some(module) = GREENLETS.get(py)
        && let Err(error) = module.module.bind(py).call_method0(intern!(py, "getcurrent"))
    {
        error.write_unraisable(py, None);
    }
}

/// Stop tracing the greenlets of this thread for this loop.
pub(crate) fn end_trace(py: Python<'_>, worker: &Worker) {
    let Some(trace) = worker.greenlets.take(py) else { return };
    let trace = known::<GreenletTrace>(trace.bind(py));
    trace.get().end(py);
    let outcome = GREENLETS.get(py).map_or(Ok(()), |module| {
        let greenlet = module.module.bind(py);
        if greenlet.call_method0(intern!(py, "gettrace"))?.is(trace) {
            let before = &trace.get().before;
            greenlet.call_method1(intern!(py, "settrace"), (before,))?;
        }
        Ok(())
    });
    if let Err(error) = outcome {
        PyErr::write_unraisable(error, py, None);
    }
}
