//! What the native classes use of asyncio: its exceptions, its own classes, its repr functions.
//!
//! All of it is imported when this module is loaded: a pending task may be reported when the interpreter
//! ends, and by then nothing can be imported.

use pyo3::exceptions::PyBaseException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

static CANCELLED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static INVALID_STATE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static FUTURE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static TASK: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static FUTURE_REPR: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static TASK_REPR: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static CALLBACK_SOURCE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static EXTRACT_STACK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Import everything, while it can be imported.
pub(crate) fn load(py: Python<'_>) -> PyResult<()> {
    cancelled_class(py)?;
    invalid_state_class(py)?;
    future_class(py)?;
    task_class(py)?;
    future_repr(py)?;
    task_repr(py)?;
    callback_source(py)?;
    extract_stack(py)?;
    Ok(())
}

fn cancelled_class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    CANCELLED.import(py, "asyncio", "CancelledError")
}

fn invalid_state_class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    INVALID_STATE.import(py, "asyncio", "InvalidStateError")
}

/// A new `asyncio.CancelledError`.
pub(crate) fn cancelled_error<'py>(
    py: Python<'py>,
    message: Option<&Py<PyAny>>,
) -> PyResult<Bound<'py, PyBaseException>> {
    let its_type = cancelled_class(py)?;
    let error = match message {
        Some(message) => its_type.call1((message,)),
        None => its_type.call0(),
    };
    Ok(error?.cast_into::<PyBaseException>()?)
}

/// Whether an exception is an `asyncio.CancelledError`.
pub(crate) fn is_cancelled_error(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    Ok(error.is_instance(py, cancelled_class(py)?))
}

/// An `asyncio.InvalidStateError`.
pub(crate) fn invalid_state(py: Python<'_>, what: &str) -> PyErr {
    match invalid_state_class(py) {
        Ok(its_type) => PyErr::from_type(its_type.clone(), what.to_owned()),
        Err(error) => error,
    }
}

/// asyncio's own `Future`.
pub(crate) fn stock_future(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    FUTURE.import(py, "_asyncio", "Future").cloned()
}

/// The class that a native future passes for: asyncio's own, and the one that has replaced it, if any.
pub(crate) fn future_class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let asyncio = asyncio(py)?;
    let (stock, now) = (stock_future(py)?, asyncio.getattr(intern!(py, "Future"))?);
    if now.is(&stock) { Ok(stock) } else { passing_for(stock, &[now]) }
}

/// The class that a native task passes for, likewise.
pub(crate) fn task_class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let asyncio = asyncio(py)?;
    let stock = TASK.import(py, "_asyncio", "Task")?.clone();
    let now = asyncio.getattr(intern!(py, "Task"))?;
    let future_now = asyncio.getattr(intern!(py, "Future"))?;
    if now.is(&stock) && future_now.is(FUTURE.import(py, "_asyncio", "Future")?) {
        return Ok(stock);
    }
    passing_for(stock, &[now, future_now])
}

fn asyncio(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static ASYNCIO: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let module =
        ASYNCIO.get_or_try_init(py, || py.import("asyncio").map(|it| it.into_any().unbind()));
    Ok(module?.bind(py))
}

/// A class that derives from asyncio's own and from those that replace it (debuggers, `nest_asyncio` and
/// tests install the pure-Python ones): a task is an instance of either for code that has kept it.
#[cold]
fn passing_for<'py>(
    stock: Bound<'py, PyType>,
    others: &[Bound<'py, PyAny>],
) -> PyResult<Bound<'py, PyType>> {
    static KNOWN: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let py = stock.py();
    let known = KNOWN.get_or_init(py, || PyDict::new(py).unbind()).bind(py);
    let replaced = PyTuple::new(py, others)?;
    if let Some(found) = known.get_item(&replaced)? {
        return Ok(found.cast_into()?);
    }
    let mut passes = stock.clone();
    for other in others {
        let Ok(other) = other.cast::<PyType>() else { continue };
        if other.is_subclass(&passes)? {
            passes = other.clone();
        } else if !passes.is_subclass(other)?
            && let Ok(both) =
                py.get_type::<PyType>().call1((stock.name()?, (&passes, other), PyDict::new(py)))
        {
            // Some classes cannot be combined; then it passes for one of them.
            passes = both.cast_into()?;
        }
    }
    known.set_item(replaced, &passes)?;
    Ok(passes)
}

/// asyncio's repr function for futures.
pub(crate) fn future_repr(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    FUTURE_REPR.import(py, "asyncio.base_futures", "_future_repr")
}

/// asyncio's repr function for tasks.
pub(crate) fn task_repr(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    TASK_REPR.import(py, "asyncio.base_tasks", "_task_repr")
}

/// asyncio's function that formats a callback with its arguments and its place in the source.
pub(crate) fn callback_source(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    CALLBACK_SOURCE.import(py, "asyncio.format_helpers", "_format_callback_source")
}

/// `traceback.extract_stack`.
pub(crate) fn extract_stack(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    EXTRACT_STACK.import(py, "traceback", "extract_stack")
}
