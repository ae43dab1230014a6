//! The Python type of a call: slots, methods, memory.
//!
//! The behaviour of the slots is in `call.rs`.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{addr_of_mut, null_mut};

use pyo3::exceptions::{PyRuntimeWarning, PyStopIteration, PyTypeError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyTuple, PyType};

use super::call::Step;
use super::call_object::{CallObject, CallState};
use super::pool::Pool;
use crate::contract::Environment;
use crate::py::memory;

static TYPE: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// Add the function `call`, and the type of what it returns, to the module.
pub(crate) fn export(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("Call", TYPE.get_or_try_init(py, || make_type(py))?)?;
    // SAFETY: the definition is static; the module keeps the function.
    let call = unsafe {
        let definition = addr_of_mut!(CALL).cast::<ffi::PyMethodDef>();
        let name = PyString::new(py, "threadlets._core");
        let function = ffi::PyCFunction_NewEx(definition, null_mut(), name.as_ptr());
        Bound::from_owned_ptr_or_err(py, function)?
    };
    module.add("call", call)
}

/// A call of the first of `args` with the others, not yet awaited. The last of them are the named
/// arguments; `abandon_on_cancel` and `fp` may be among those.
pub(crate) fn with_options<'py>(
    args: &[*mut ffi::PyObject],
    names: &Bound<'py, PyTuple>,
    pool: Option<&Bound<'py, Pool>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = names.py();
    let options = split_options(py, args, names)?;
    let (abandons, environment, args, names) = match &options {
        Some(it) => (it.abandons, it.environment.clone(), it.args.as_slice(), &it.names),
        None => (false, None, args, names),
    };
    let names = if names.is_empty() { null_mut() } else { names.as_ptr() };
    // SAFETY: the arguments and the names are alive; the object is new, and no other code has it yet.
    unsafe {
        let call = Bound::from_owned_ptr_or_err(py, make(args, names).cast())?;
        let object = &mut *call.as_ptr().cast::<CallObject>();
        object.pool = pool.map_or(null_mut(), |it| it.clone().into_ptr());
        object.environment = environment.map_or(null_mut(), Bound::into_ptr);
        if abandons {
            object.state.set(CallState::FreshAbandonable);
        }
        Ok(call)
    }
}

/// A call of a `ThreadFunction`, not yet awaited.
pub(crate) fn of_thread_function<'py>(function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the function is alive; the object is new, and no other code has it yet.
    unsafe {
        let made = make(&[function.as_ptr()], null_mut());
        let call = Bound::from_owned_ptr_or_err(function.py(), made.cast())?;
        (*made).state.set(CallState::FreshQueueable);
        Ok(call)
    }
}

/// An entry of a method table.
const fn method(
    name: &'static CStr,
    method: ffi::PyCFunctionFastWithKeywords,
    doc: &'static CStr,
) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: method },
        ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ml_doc: doc.as_ptr(),
    }
}

static mut CALL: ffi::PyMethodDef = method(
    c"call",
    call,
    c"call(callable, /, *args, abandon_on_cancel=False, fp=None, **kwargs)\n--\n\nCall a plain function where \
    it is awaited, and let it become a thread only if it blocks.",
);

static mut METHODS: [ffi::PyMethodDef; 4] = [
    method(c"send", call_send, c"Take the next step of the await."),
    method(c"throw", call_throw, c"Take the next step of the await with an exception."),
    method(c"close", call_close, c"End the await."),
    ffi::PyMethodDef::zeroed(),
];

static mut ATTRIBUTES: [ffi::PyGetSetDef; 3] = [
    attribute(c"__name__", c"__name__"),
    attribute(c"__qualname__", c"__qualname__"),
    // SAFETY: all zero is the end of the table.
    unsafe { std::mem::zeroed() },
];

/// An attribute that is read from the function.
const fn attribute(name: &'static CStr, of: &'static CStr) -> ffi::PyGetSetDef {
    ffi::PyGetSetDef {
        name: name.as_ptr(),
        get: Some(call_attribute),
        set: None,
        doc: c"The attribute of the function.".as_ptr(),
        closure: of.as_ptr().cast_mut().cast(),
    }
}

fn make_type(py: Python<'_>) -> PyResult<Py<PyType>> {
    let slot = |slot: c_int, pfunc: *mut c_void| ffi::PyType_Slot { slot, pfunc };
    let doc = c"A call of a plain function that is yet to be awaited.";
    let mut slots = [
        slot(ffi::Py_tp_doc, doc.as_ptr().cast_mut().cast()),
        slot(ffi::Py_tp_dealloc, threadlets_dealloc_call as *mut c_void),
        slot(ffi::Py_tp_traverse, call_traverse as *mut c_void),
        slot(ffi::Py_tp_clear, call_clear as *mut c_void),
        slot(ffi::Py_tp_iter, call_self as *mut c_void),
        slot(ffi::Py_tp_iternext, call_next as *mut c_void),
        slot(ffi::Py_am_await, call_self as *mut c_void),
        slot(ffi::Py_am_send, call_am_send as *mut c_void),
        slot(ffi::Py_tp_methods, addr_of_mut!(METHODS).cast()),
        slot(ffi::Py_tp_getset, addr_of_mut!(ATTRIBUTES).cast()),
        slot(0, null_mut()),
    ];
    let mut spec = ffi::PyType_Spec {
        name: c"threadlets.Call".as_ptr(),
        basicsize: size_of::<CallObject>() as c_int,
        itemsize: size_of::<*mut ffi::PyObject>() as c_int,
        flags: (ffi::Py_TPFLAGS_DEFAULT
            | ffi::Py_TPFLAGS_HAVE_GC
            | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION) as u32,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the tables are static, the slots' functions have the types that the slots ask for, and
    // the specification is copied.
    unsafe {
        let made = Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&raw mut spec))?;
        Ok(made.cast_into_unchecked::<PyType>().unbind())
    }
}

/// A fresh call, or null with an exception set.
///
/// # Safety
/// The GIL is held; the arguments (the callable first) and the names are alive.
unsafe fn make(args: &[*mut ffi::PyObject], names: *mut ffi::PyObject) -> *mut CallObject {
    // SAFETY: the type was made when the module was, and is a type with items.
    unsafe {
        let py = Python::assume_attached();
        let Some(made) = TYPE.get(py) else { return null_mut() };
        let object = ffi::PyType_GenericAlloc(made.as_ptr().cast(), args.len() as ffi::Py_ssize_t);
        let object = object.cast::<CallObject>();
        let Some(call) = object.as_mut() else { return object };
        // The memory is zeroed: every reference is null.
        call.state.set(CallState::Fresh);
        call.items = object.add(1).cast();
        for (idx, &arg) in args.iter().enumerate() {
            call.items.add(idx).write(ffi::Py_NewRef(arg));
        }
        if !names.is_null() {
            call.names = ffi::Py_NewRef(names);
        }
        object
    }
}

/// The options of a call, its other arguments, and the names of the named ones among them.
struct Options<'py> {
    abandons: bool,
    environment: Option<Bound<'py, Environment>>,
    args: Vec<*mut ffi::PyObject>,
    names: Bound<'py, PyTuple>,
}

/// Take `abandon_on_cancel` and `fp` out of the named arguments, if they are there.
fn split_options<'py>(
    py: Python<'py>,
    args: &[*mut ffi::PyObject],
    names: &Bound<'py, PyTuple>,
) -> PyResult<Option<Options<'py>>> {
    let (abandon_on_cancel, fp) = (intern!(py, "abandon_on_cancel"), intern!(py, "fp"));
    let is =
        |name: &Bound<'_, PyAny>, option: &Bound<'_, PyString>| name.eq(option).unwrap_or(false);
    if !names.iter().any(|name| is(&name, abandon_on_cancel) || is(&name, fp)) {
        return Ok(None);
    }
    let (positional, named) = args.split_at(args.len() - names.len());
    let mut split = Options {
        abandons: false,
        environment: None,
        args: memory::copy(positional, named.len())?,
        names: names.clone(),
    };
    let mut left = Vec::new();
    for (name, &value) in names.iter().zip(named) {
        // SAFETY: the caller's arguments are alive.
        let bound = unsafe { Bound::from_borrowed_ptr(py, value) };
        if is(&name, abandon_on_cancel) {
            split.abandons = bound.is_truthy()?;
        } else if is(&name, fp) {
            split.environment = bound.extract().map_err(|_| {
                PyTypeError::new_err(format!(
                    "fp is {bound}; pass what threadlets.fp.environment() returns, or None"
                ))
            })?;
        } else {
            left.push(name);
            split.args.push(value);
        }
    }
    split.names = PyTuple::new(py, left)?;
    Ok(Some(split))
}

unsafe extern "C" fn call(
    _module: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    n_args: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls with the GIL held and with arguments as it documents.
    unsafe {
        let n_ids = if names.is_null() { 0 } else { ffi::PyTuple_GET_SIZE(names) };
        if n_args == 0 || ffi::PyCallable_Check(*args) == 0 {
            let what = c"threadlets.call() takes a function and its arguments; the first argument \
                is not callable: pass the function itself, as in call(f, x)";
            ffi::PyErr_SetString(ffi::PyExc_TypeError, what.as_ptr());
            return null_mut();
        }
        let args = std::slice::from_raw_parts(args, (n_args + n_ids) as usize);
        if n_ids == 0 {
            return make(args, null_mut()).cast();
        }
        let py = Python::assume_attached();
        let named = Bound::from_borrowed_ptr(py, names).cast_into_unchecked::<PyTuple>();
        or_null(py, with_options(args, &named, None).map(Bound::unbind))
    }
}

/// Return a result as a C function does: null with an exception set for an error.
fn or_null(py: Python<'_>, result: PyResult<Py<PyAny>>) -> *mut ffi::PyObject {
    result.map_or_else(
        |error| {
            error.restore(py);
            null_mut()
        },
        Py::into_ptr,
    )
}

unsafe extern "C" fn call_self(slf: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes a live object.
    unsafe { ffi::Py_NewRef(slf) }
}

unsafe extern "C" fn call_am_send(
    slf: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    // SAFETY: the interpreter calls with the GIL held, an object of our type, and a place for the
    // result. Whatever a step changes of the object is in cells.
    unsafe {
        let py = Python::assume_attached();
        let (sent, object) =
            match (*slf.cast::<CallObject>()).send(py, &Bound::from_borrowed_ptr(py, value)) {
                Ok(Step::Returned(it)) => (ffi::PySendResult::PYGEN_RETURN, it.into_ptr()),
                Ok(Step::Yielded(it)) => (ffi::PySendResult::PYGEN_NEXT, it.into_ptr()),
                Err(error) => {
                    error.restore(py);
                    (ffi::PySendResult::PYGEN_ERROR, null_mut())
                }
            };
        *result = object;
        sent
    }
}

/// Return a step as a method does: a return is a `StopIteration`.
fn as_method(py: Python<'_>, step: PyResult<Step>) -> *mut ffi::PyObject {
    let result = step.and_then(|step| match step {
        Step::Yielded(it) => Ok(it),
        Step::Returned(it) => Err(PyStopIteration::new_err((it,))),
    });
    or_null(py, result)
}

/// Return a step as `tp_iternext` does: a return of None is null without an exception.
fn as_iterator(py: Python<'_>, step: PyResult<Step>) -> *mut ffi::PyObject {
    match step {
        Ok(Step::Returned(it)) if it.is_none(py) => null_mut(),
        step => as_method(py, step),
    }
}

unsafe extern "C" fn call_next(slf: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: as in `call_am_send`.
    unsafe {
        let py = Python::assume_attached();
        as_iterator(py, (*slf.cast::<CallObject>()).send(py, py.None().bind(py)))
    }
}

unsafe extern "C" fn call_send(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    n_args: ffi::Py_ssize_t,
    _names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as in `call_am_send`, and the arguments are as many as are said.
    unsafe {
        let py = Python::assume_attached();
        let value =
            if n_args == 0 { py.None() } else { Bound::from_borrowed_ptr(py, *args).unbind() };
        as_method(py, (*slf.cast::<CallObject>()).send(py, value.bind(py)))
    }
}

unsafe extern "C" fn call_throw(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    n_args: ffi::Py_ssize_t,
    _names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as in `call_send`.
    unsafe {
        let py = Python::assume_attached();
        let args = std::slice::from_raw_parts(args, n_args as usize);
        let args = args.iter().map(|&it| Bound::from_borrowed_ptr(py, it));
        let step =
            PyTuple::new(py, args).and_then(|args| (*slf.cast::<CallObject>()).throw(py, &args));
        as_method(py, step)
    }
}

unsafe extern "C" fn call_close(
    slf: *mut ffi::PyObject,
    _args: *const *mut ffi::PyObject,
    _n_args: ffi::Py_ssize_t,
    _names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as in `call_am_send`.
    unsafe {
        let py = Python::assume_attached();
        or_null(py, (*slf.cast::<CallObject>()).end(py).map(|()| py.None()))
    }
}

unsafe extern "C" fn call_attribute(
    slf: *mut ffi::PyObject,
    name: *mut c_void,
) -> *mut ffi::PyObject {
    // SAFETY: the table passes one of its static names.
    unsafe {
        let callable = (*slf.cast::<CallObject>()).callable();
        ffi::PyObject_GetAttrString(callable, name.cast_const().cast::<c_char>())
    }
}

unsafe extern "C" fn call_traverse(
    slf: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live object; references are only read.
    unsafe {
        let call = &*slf.cast::<CallObject>();
        let own = [
            ffi::Py_TYPE(slf).cast(),
            call.names,
            call.pool,
            call.environment,
            call.delegate.get(),
            call.held.get(),
        ];
        let items = (0..call.n_items()).map(|idx| *call.items.add(idx));
        for object in own.into_iter().chain(items).filter(|it| !it.is_null()) {
            let stopped = visit(object, arg);
            if stopped != 0 {
                return stopped;
            }
        }
        0
    }
}

unsafe extern "C" fn call_clear(slf: *mut ffi::PyObject) -> c_int {
    // SAFETY: no other code uses the object any more; each reference is released once.
    unsafe {
        let call = &mut *slf.cast::<CallObject>();
        if call.state.get() == CallState::AwaitsPermit {
            end_dropped(Python::assume_attached(), call);
        }
        for idx in 0..call.n_items() {
            ffi::Py_XDECREF(call.items.add(idx).replace(null_mut()));
        }
        for reference in [
            &mut call.names,
            &mut call.pool,
            &mut call.environment,
            call.delegate.get_mut(),
            call.held.get_mut(),
        ] {
            ffi::Py_XDECREF(std::mem::replace(reference, null_mut()));
        }
        0
    }
}

unsafe extern "C" {
    /// Untracks the object, and has `threadlets_free_call` free it, now or a little later.
    fn threadlets_dealloc_call(slf: *mut ffi::PyObject);
}

/// # Safety
/// The last reference is gone, and the object is not tracked by the collector.
#[unsafe(no_mangle)]
unsafe extern "C" fn threadlets_free_call(slf: *mut ffi::PyObject) {
    // SAFETY: as the caller promises; the type, to which the object had a reference, is released last.
    unsafe {
        let call = &*slf.cast::<CallObject>();
        if matches!(
            call.state.get(),
            CallState::Fresh | CallState::FreshAbandonable | CallState::FreshQueueable
        ) && !call.callable().is_null()
        {
            warn_never_awaited(Python::assume_attached(), call);
        }
        call_clear(slf);
        let its_type = ffi::Py_TYPE(slf);
        ffi::PyObject_GC_Del(slf.cast());
        ffi::Py_DECREF(its_type.cast());
    }
}

/// End the await of a call that is dropped while it waits for its permit, or before it has used it.
#[cold]
fn end_dropped(py: Python<'_>, call: &CallObject) {
    let raised = PyErr::take(py);
    if let Err(error) = call.end(py) {
        error.write_unraisable(py, None);
    }
    if let Some(raised) = raised {
        raised.restore(py);
    }
}

#[cold]
fn warn_never_awaited(py: Python<'_>, call: &CallObject) {
    let raised = PyErr::take(py);
    // SAFETY: the callable is alive until the object is cleared.
    let callable = unsafe { Bound::from_borrowed_ptr(py, call.callable()) };
    let name = callable
        .getattr(intern!(py, "__qualname__"))
        .or_else(|_| callable.repr().map(Bound::into_any));
    let name = name.map_or_else(|_| "?".to_owned(), |it| it.to_string());
    let message = CString::new(format!("threadlet call of '{name}' was never awaited"));
    let category = py.get_type::<PyRuntimeWarning>();
    if let Ok(message) = message
        && let Err(error) = PyErr::warn(py, &category, &message, 1)
    {
        error.write_unraisable(py, Some(&callable));
    }
    if let Some(raised) = raised {
        raised.restore(py);
    }
}
