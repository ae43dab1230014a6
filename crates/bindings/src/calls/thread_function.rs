//! A function that runs as it would in a worker thread of anyio's, wherever it is called.

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

use super::call_type;
use super::queued_call::without_loop;
use crate::contract::in_context;
use crate::dispatcher::worker::Worker;
use crate::py::context::current_context;

/// A function and its arguments. Called, it finds no running loop, a copy of the context in which this was made, and
/// the values in a `threading.local` by which `anyio.from_thread` finds the way back.
#[pyclass(frozen, module = "threadlets._core")]
#[derive(Debug)]
pub(crate) struct ThreadFunction {
    function: Py<PyAny>,
    #[pyo3(get)]
    args: Py<PyTuple>,
    context: Py<PyAny>,
    thread_local: Py<PyAny>,
    values: Py<PyDict>,
    /// The variable in which sniffio looks up the running library.
    library: Option<Py<PyAny>>,
}

impl ThreadFunction {
    fn run(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let values =
            self.thread_local.bind(py).getattr(intern!(py, "__dict__"))?.cast_into::<PyDict>()?;
        // Not always empty: the loop may itself run in a threadlet of another loop.
        let kept = if values.is_empty() { None } else { Some(values.copy()?) };
        values.update(self.values.bind(py).as_mapping())?;
        let outcome = in_context(py, &self.context, || {
            if let Some(library) = &self.library {
                let library = library.bind(py);
                if !library.call_method0(intern!(py, "get"))?.is_none() {
                    library.call_method1(intern!(py, "set"), (py.None(),))?;
                }
            }
            self.function.bind(py).call1(self.args.bind(py)).map(Bound::unbind)
        });
        values.clear();
        if let Some(kept) = kept {
            values.update(kept.as_mapping())?;
        }
        outcome
    }
}

#[pymethods]
impl ThreadFunction {
    #[new]
    #[pyo3(signature = (function, args, thread_local, values, library, /))]
    fn new(
        py: Python<'_>,
        function: Py<PyAny>,
        args: Py<PyTuple>,
        thread_local: Py<PyAny>,
        values: Py<PyDict>,
        library: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let context = current_context(py)?.unbind();
        Ok(Self { function, args, context, thread_local, values, library })
    }

    fn __call__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let dispatcher = Worker::with_current(|it| it.map(|it| it.dispatcher(py).clone()));
        match dispatcher {
            Some(dispatcher) => without_loop(&dispatcher, || self.run(py))?,
            // The caller has taken care of that.
            None => self.run(py),
        }
    }

    /// The function by which the dispatcher remembers calls. FastAPI calls all endpoints by a function of its own, which
    /// gets them as the argument `function`.
    #[getter]
    fn func(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        static PARTIAL: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let function = self.function.bind(py);
        if function.get_type().is(PARTIAL.import(py, "functools", "partial")?) {
            let named = function.getattr(intern!(py, "keywords"))?.cast_into::<PyDict>()?;
            if let Some(inner) = named.get_item(intern!(py, "function"))?
                && inner.is_callable()
            {
                return Ok(inner.unbind());
            }
        }
        Ok(function.clone().unbind())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let function = self.func(py)?;
        let mut function = function.bind(py).clone();
        while let Some(inner) = function.getattr_opt(intern!(py, "func"))? {
            function = inner;
        }
        match function.getattr_opt(intern!(py, "__qualname__"))? {
            Some(name) => Ok(name.to_string()),
            None => Ok(function.repr()?.to_string()),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)?;
        visit.call(&self.args)?;
        visit.call(&self.context)?;
        visit.call(&self.thread_local)?;
        visit.call(&self.values)?;
        visit.call(&self.library)
    }
}

/// An awaitable that calls the function: in the stack of its awaiter if it is known to be quick, and as a queued call
/// otherwise. As any call, it first lets others run if its step has used up its time slice.
#[pyfunction]
pub(crate) fn call_thread_function<'py>(
    function: &Bound<'py, ThreadFunction>,
) -> PyResult<Bound<'py, PyAny>> {
    call_type::of_thread_function(function.as_any())
}
