//! Entry points: the code that a call runs inside all its wrappers, by which its function is remembered.

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyTuple};

unsafe extern "C" {
    static mut PyMethod_Type: ffi::PyTypeObject;
    /// The function of a bound method, borrowed.
    fn PyMethod_Function(method: *mut ffi::PyObject) -> *mut ffi::PyObject;
}

/// How many wrappers are looked through.
const N_LAYERS_MAX: usize = 32;

/// A number for the code that a call runs. Functions with the same code have the same number; so do bound
/// methods that are written in C, on all instances of their class.
///
/// `functools.partial`, decorators that set `__wrapped__`, and `Context.run` are looked through; so is any
/// object that keeps the function which it calls as `func`.
#[inline]
pub(crate) fn code_id<'py>(
    callable: &Bound<'py, PyAny>,
    first_arg: impl FnOnce() -> Option<Bound<'py, PyAny>>,
) -> usize {
    id_without_wrappers(callable.as_ptr())
        .unwrap_or_else(|| id_of_innermost(&innermost(callable, first_arg())))
}

/// The number of a function without wrappers; `None` for other callables.
#[inline]
fn id_without_wrappers(callable: *mut ffi::PyObject) -> Option<usize> {
    // SAFETY: the callable is alive, and is read as an object of the type that it has.
    unsafe {
        let its_type = ffi::Py_TYPE(callable);
        if its_type == &raw mut ffi::PyFunction_Type {
            let function = &*callable.cast::<ffi::PyFunctionObject>();
            return function.func_dict.is_null().then_some(function.func_code as usize);
        }
        if its_type == &raw mut PyMethod_Type {
            return id_without_wrappers(PyMethod_Function(callable));
        }
        if its_type == &raw mut ffi::PyCFunction_Type {
            let method = (*callable.cast::<ffi::PyCFunctionObject>()).m_ml;
            return (method != context_run()).then_some(method as usize);
        }
        None
    }
}

/// The number of an innermost callable: of its code, or of its class.
fn id_of_innermost(callable: &Bound<'_, PyAny>) -> usize {
    // SAFETY: as in `id_without_wrappers`.
    unsafe {
        let (object, its_type) = (callable.as_ptr(), ffi::Py_TYPE(callable.as_ptr()));
        if its_type == &raw mut ffi::PyFunction_Type {
            return (*object.cast::<ffi::PyFunctionObject>()).func_code as usize;
        }
        if its_type == &raw mut ffi::PyCFunction_Type {
            return (*object.cast::<ffi::PyCFunctionObject>()).m_ml as usize;
        }
        // A class is known by its own address, an instance by that of its class.
        if ffi::PyType_Check(object) != 0 { object as usize } else { its_type as usize }
    }
}

static CONTEXT_RUN: PyOnceLock<usize> = PyOnceLock::new();

/// The method definition of `Context.run`; null before `load`.
fn context_run() -> *mut ffi::PyMethodDef {
    // SAFETY: the caller looks at a callable, and so holds the GIL.
    let known = unsafe { CONTEXT_RUN.get(Python::assume_attached()) };
    known.map_or(std::ptr::null_mut(), |&it| it as *mut ffi::PyMethodDef)
}

/// Find the method definition of `Context.run`, once.
pub(crate) fn load(py: Python<'_>) -> PyResult<()> {
    let run = py.import("contextvars")?.call_method0("copy_context")?.getattr("run")?;
    let method = run.cast::<pyo3::types::PyCFunction>()?;
    // SAFETY: `cast` has checked the type.
    let method = unsafe { (*method.as_ptr().cast::<ffi::PyCFunctionObject>()).m_ml };
    CONTEXT_RUN.get_or_init(py, || method as usize);
    Ok(())
}

/// The function inside all wrappers of a callable.
pub(crate) fn innermost<'py>(
    callable: &Bound<'py, PyAny>,
    mut first_arg: Option<Bound<'py, PyAny>>,
) -> Bound<'py, PyAny> {
    let py = callable.py();
    let mut function = callable.clone();
    for _ in 0..N_LAYERS_MAX {
        // SAFETY: as in `id_without_wrappers`.
        let method = unsafe {
            let is_method = ffi::Py_TYPE(function.as_ptr()) == &raw mut PyMethod_Type;
            is_method.then(|| PyMethod_Function(function.as_ptr()))
        };
        if let Some(method) = method {
            // SAFETY: the method keeps its function alive.
            function = unsafe { Bound::from_borrowed_ptr(py, method) };
            continue;
        }
        // SAFETY: as in `id_without_wrappers`.
        let (is_function, runs_in_context) = unsafe {
            let its_type = ffi::Py_TYPE(function.as_ptr());
            let object = function.as_ptr().cast::<ffi::PyCFunctionObject>();
            let is_builtin = its_type == &raw mut ffi::PyCFunction_Type;
            (
                its_type == &raw mut ffi::PyFunction_Type,
                is_builtin && (*object).m_ml == context_run(),
            )
        };
        // SAFETY: as in `id_without_wrappers`.
        let has_attributes = is_function
            && unsafe { !(*function.as_ptr().cast::<ffi::PyFunctionObject>()).func_dict.is_null() };
        let inner = if runs_in_context {
            first_arg.take()
        } else if is_function && !has_attributes {
            None
        } else if is_function {
            attribute(&function, intern!(py, "__wrapped__"))
        } else {
            // A class is not looked through: its `func` is an attribute for its instances.
            let is_class = function.is_instance_of::<pyo3::types::PyType>();
            let inner = (!is_class).then(|| attribute(&function, intern!(py, "func"))).flatten();
            if inner.is_some()
                && let Some(args) = attribute(&function, intern!(py, "args"))
                && let Ok(args) = args.cast::<PyTuple>()
            {
                first_arg = args.get_item(0).ok().or(first_arg);
            }
            inner
        };
        match inner {
            Some(inner) if inner.is_callable() => function = inner,
            _ => break,
        }
    }
    function
}

fn attribute<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> Option<Bound<'py, PyAny>> {
    // An attribute whose getter raises counts as missing.
    object.getattr_opt(name).ok().flatten()
}

/// The name of an innermost function: its module and its qualified name.
pub(crate) fn name(function: &Bound<'_, PyAny>) -> PyResult<Py<PyString>> {
    let py = function.py();
    let named = match attribute(function, intern!(py, "__qualname__")) {
        Some(name) => (attribute(function, intern!(py, "__module__")), name),
        None => {
            let its_type = function.get_type().into_any();
            let name = its_type.getattr(intern!(py, "__qualname__"))?;
            (attribute(&its_type, intern!(py, "__module__")), name)
        }
    };
    let name = match named {
        (Some(module), name) if !module.is_none() => format!("{module}.{name}"),
        (_, name) => name.to_string(),
    };
    Ok(PyString::new(py, &name).unbind())
}
