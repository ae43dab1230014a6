//! `Result`: the outcome of a run, errors included, as a value.

use std::os::fd::{IntoRawFd, OwnedFd};

use pyo3::PyTraverseError;
use pyo3::basic::CompareOp;
use pyo3::exceptions::PyOSError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use threadlets_core::syslet::End;

use crate::py::gil_cell::GilCell;

/// The outcome of a syslet.
///
/// `ok` is whether it ended as its program meant it to; then `value` is the program's result, and `errno`
/// is 0. Otherwise `errno` says why the atom with the index `atom` failed, and `value` is None. A
/// descriptor in the value belongs to the code that reads `value`; if it is never read, the descriptor is
/// closed with the result. `progress` is how many bytes an atom had moved before it failed or was
/// cancelled, the last one if several failed and the program went on; 0 if none did. `input` is what a
/// sweep gave to the program, and None elsewhere. Two results are equal when their values, errnos, atoms
/// and progress are; `len()` is that of the value.
#[pyclass(frozen, module = "threadlets", name = "Result")]
#[derive(Debug)]
pub(crate) struct SysletResult {
    value: Py<PyAny>,
    /// The descriptors in the value, until it was read.
    descriptors: GilCell<Vec<OwnedFd>>,
    #[pyo3(get)]
    errno: i32,
    #[pyo3(get)]
    atom: u16,
    #[pyo3(get)]
    progress: usize,
    #[pyo3(get)]
    input: Option<Py<PyAny>>,
}

impl SysletResult {
    pub(crate) fn new(value: Py<PyAny>, errno: i32, end: &End, input: Option<Py<PyAny>>) -> Self {
        let (atom, progress) = (end.atom, end.progress);
        Self { value, descriptors: GilCell::default(), errno, atom, progress, input }
    }

    pub(crate) fn with_descriptors(self, descriptors: Vec<OwnedFd>) -> Self {
        Self { descriptors: GilCell::new(descriptors), ..self }
    }
}

#[pymethods]
impl SysletResult {
    #[getter]
    fn value(&self, py: Python<'_>) -> Py<PyAny> {
        self.descriptors.with(py, |descriptors| {
            for descriptor in descriptors.drain(..) {
                // The reader owns it from now on.
                let _ = descriptor.into_raw_fd();
            }
        });
        self.value.clone_ref(py)
    }

    /// Whether the program ended as it was meant to.
    #[getter]
    fn ok(&self) -> bool {
        self.errno == 0
    }

    /// The failure as the `OSError` that its errno stands for; None when there was none.
    #[getter]
    fn error<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if self.errno == 0 {
            return Ok(None);
        }
        let message = py.import("os")?.call_method1(intern!(py, "strerror"), (self.errno,))?;
        py.get_type::<PyOSError>().call1((self.errno, message)).map(Some)
    }

    /// Return the value, or raise the failure.
    ///
    /// Raises:
    ///     OSError: the program failed; its subclass is that of the errno.
    fn unwrap(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self.error(py)? {
            Some(error) => Err(PyErr::from_value(error)),
            None => Ok(self.value(py)),
        }
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.value.bind(py).len()
    }

    fn __bool__(&self) -> bool {
        self.errno == 0
    }

    fn __richcmp__(
        &self,
        py: Python<'_>,
        other: &Bound<'_, PyAny>,
        operator: CompareOp,
    ) -> PyResult<Py<PyAny>> {
        let Ok(other) = other.cast::<Self>() else { return Ok(py.NotImplemented()) };
        let other = other.get();
        let is_equal = || -> PyResult<bool> {
            let key = |it: &Self| (it.errno, it.atom, it.progress);
            Ok(key(self) == key(other) && self.value.bind(py).eq(other.value.bind(py))?)
        };
        let outcome = match operator {
            CompareOp::Eq => is_equal()?,
            CompareOp::Ne => !is_equal()?,
            _ => return Ok(py.NotImplemented()),
        };
        Ok(outcome.into_pyobject(py)?.to_owned().into_any().unbind())
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        (self.errno, self.atom, self.progress, &self.value).into_pyobject(py)?.hash()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let mut rest = format!("atom={}", self.atom);
        if self.progress > 0 {
            rest += &format!(", progress={}", self.progress);
        }
        if self.errno == 0 {
            let value = self.value.bind(py).repr()?;
            return Ok(format!("Result(value={value}, {rest})"));
        }
        let errorcode = py.import("errno")?.getattr(intern!(py, "errorcode"))?;
        let name = errorcode
            .get_item(self.errno)
            .map_or_else(|_| self.errno.to_string(), |name| name.to_string());
        Ok(format!("Result(errno={name}, {rest})"))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.value)?;
        visit.call(&self.input)
    }
}
