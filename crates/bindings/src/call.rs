//! `threadlets.call(fn, …)`: an awaitable that calls a function inside the stack of whoever awaits
//! it, and needs no task switch unless the call has to wait for its turn.
//!
//! It is a type of its own making because PyO3 has no `am_send`: with it the result of an await is
//! handed over without an exception. Everything that is not on the path of every call is left to
//! coroutines (`Loop._turn`, `Loop._call_abandonable`), to which the awaitable then delegates.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::{NonNull, addr_of_mut, null_mut};

use pyo3::exceptions::{PyRuntimeError, PyStopIteration, PyTypeError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyTuple, PyType};

use crate::crew::{Crew, Protected};
use crate::dispatcher::Dispatcher;
use crate::interpreter;
use crate::pool::Pool;
use crate::runner::Runner;

/// Where a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum State {
    /// Nobody has awaited it yet.
    Fresh,
    /// Nobody has awaited it yet; cancelling is not to wait for the function.
    FreshAbandonable,
    /// The delegate waits for the turn.
    AwaitsTurn,
    /// The delegate waits for the result.
    AwaitsResult,
    /// The function has returned, but its task was cancelled meanwhile: the exception comes next.
    AwaitsCancellation,
    Done,
}

#[repr(C)]
struct CallObject {
    head: ffi::PyVarObject,
    /// The names of the last arguments, a tuple, or null.
    names: *mut ffi::PyObject,
    /// The pool, or null.
    pool: *mut ffi::PyObject,
    /// The coroutine that waits instead, or null.
    delegate: *mut ffi::PyObject,
    /// The result, should no cancellation come after all; or null.
    held: *mut ffi::PyObject,
    state: State,
    /// The function, its positional arguments, the values of its named arguments.
    items: [*mut ffi::PyObject; 0],
}

/// What the next step of an await gives.
enum Step {
    Returned(Py<PyAny>),
    Yielded(Py<PyAny>),
}

static TYPE: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// The function `call` and the type of what it returns.
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

/// A call in a pool, not yet awaited, of the first of `args` with the others; the last ones are
/// named, and `abandon_on_cancel` may be among them.
pub(crate) fn with_options<'py>(
    pool: &Bound<'py, PyAny>,
    args: &[*mut ffi::PyObject],
    names: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let Some((abandons, args, names)) = split_options(pool.py(), args, names)? else {
        return in_pool(pool, args, names.as_ptr());
    };
    let names = if names.is_empty() { null_mut() } else { names.as_ptr() };
    let call = in_pool(pool, &args, names)?;
    if abandons {
        // SAFETY: `in_pool` makes objects of our type, and nobody else has this one yet.
        unsafe { (*call.as_ptr().cast::<CallObject>()).state = State::FreshAbandonable };
    }
    Ok(call)
}

/// A call in a pool, not yet awaited.
pub(crate) fn in_pool<'py>(
    pool: &Bound<'py, PyAny>,
    args: &[*mut ffi::PyObject],
    names: *mut ffi::PyObject,
) -> PyResult<Bound<'py, PyAny>> {
    let py = pool.py();
    // SAFETY: the arguments are alive, and so is the pool.
    unsafe {
        let object = make(args, names);
        if let Some(mut object) = NonNull::new(object) {
            object.as_mut().pool = ffi::Py_NewRef(pool.as_ptr());
        }
        Bound::from_owned_ptr_or_err(py, object.cast())
    }
}

impl CallObject {
    fn items(&self) -> &[*mut ffi::PyObject] {
        // SAFETY: the object was allocated with this many items behind it, and all were set.
        unsafe { std::slice::from_raw_parts(self.items.as_ptr(), self.head.ob_size as usize) }
    }

    fn callable(&self) -> *mut ffi::PyObject {
        self.items()[0]
    }

    fn n_positional(&self) -> usize {
        // SAFETY: the names are a tuple or null.
        let n_named =
            if self.names.is_null() { 0 } else { unsafe { ffi::PyTuple_GET_SIZE(self.names) } };
        self.items().len() - 1 - n_named as usize
    }

    fn pool<'py>(&self, py: Python<'py>) -> Option<Bound<'py, Pool>> {
        // SAFETY: the pool is an instance of `Pool`, or null.
        unsafe {
            let pool = NonNull::new(self.pool)?;
            Some(Bound::from_borrowed_ptr(py, pool.as_ptr()).cast_into_unchecked())
        }
    }

    /// Take the next step: a value was sent, or the await begins.
    fn send(&mut self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<Step> {
        match self.state {
            State::Fresh => self.begin(py),
            State::FreshAbandonable => self.delegate_result(py),
            State::AwaitsTurn | State::AwaitsResult => {
                let mut result = null_mut();
                // SAFETY: all three are alive; the result is a new reference unless an error is set.
                let sent =
                    unsafe { ffi::PyIter_Send(self.delegate, value.as_ptr(), &raw mut result) };
                match sent {
                    ffi::PySendResult::PYGEN_ERROR => self.fail(PyErr::fetch(py)),
                    // SAFETY: see above.
                    ffi::PySendResult::PYGEN_NEXT => {
                        Ok(Step::Yielded(unsafe { Bound::from_owned_ptr(py, result) }.unbind()))
                    }
                    // SAFETY: see above.
                    ffi::PySendResult::PYGEN_RETURN => self
                        .delegate_returned(py, unsafe { Bound::from_owned_ptr(py, result) }.unbind()),
                }
            }
            State::AwaitsCancellation => {
                self.state = State::Done;
                // SAFETY: the reference is ours, and given away.
                let held = unsafe {
                    Bound::from_owned_ptr(py, std::mem::replace(&mut self.held, null_mut()))
                };
                Ok(Step::Returned(held.unbind()))
            }
            State::Done => Err(PyRuntimeError::new_err(
                "cannot await a threadlet call twice; make another with threadlets.call()",
            )),
        }
    }

    fn fail(&mut self, error: PyErr) -> PyResult<Step> {
        self.state = State::Done;
        Err(error)
    }

    /// Call the function here and now, unless it has to wait for its turn.
    fn begin(&mut self, py: Python<'_>) -> PyResult<Step> {
        let may_start = Runner::with_current(|runner| {
            let Some(pool) = self.pool(py) else { return Ok(true) };
            let runner = runner.ok_or_else(no_loop)?;
            pool.get().try_start(runner.dispatcher(py))
        });
        match may_start {
            Ok(true) => self.run(py),
            Ok(false) => self.delegate_turn(py),
            Err(error) => self.fail(error),
        }
    }

    /// Call the function; its turn has come.
    fn run(&mut self, py: Python<'_>) -> PyResult<Step> {
        Runner::with_current(|runner| {
            let Some(runner) = runner else { return self.fail(no_loop()) };
            let slf = runner.dispatcher(py);
            let pool = self.pool(py);
            let key = pool.as_ref().and_then(|it| it.get().key(py));
            let (callable, names) = (self.callable(), self.names);
            let args = self.items()[1..].as_ptr();
            let nargsf = self.n_positional() | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
            self.state = State::Done;
            let protected = Crew::protect(slf, runner, callable, key, || {
                // SAFETY: the arguments live in this object, whose owner awaits it, and the word
                // before them is the callable's, which may be used meanwhile.
                unsafe { interpreter::call(callable, args, nargsf, names) }
            });
            if let Some(pool) = pool {
                pool.get().finish(py, slf);
            }
            match protected {
                Protected::Kept(result) => returned(py, result).map(Step::Returned),
                Protected::Lost(result) => {
                    // Before anything else: the error indicator is the function's.
                    let outcome = returned(py, result);
                    Crew::get_role_back(slf, runner)?;
                    let result = outcome?;
                    if !Crew::is_cancelled(slf) {
                        return Ok(Step::Returned(result));
                    }
                    // The task throws it in at its next step, which is asked for by yielding None.
                    self.held = result.into_ptr();
                    self.state = State::AwaitsCancellation;
                    Ok(Step::Yielded(py.None()))
                }
                Protected::Full => self.delegate_turn(py),
            }
        })
    }

    /// Have a coroutine of the loop wait instead, and take its first step.
    fn delegate(
        &mut self,
        py: Python<'_>,
        state: State,
        make: impl FnOnce(&Self, &Bound<'_, Dispatcher>) -> PyResult<Py<PyAny>>,
    ) -> PyResult<Step> {
        let coroutine = Runner::with_current(|runner| {
            make(self, runner.ok_or_else(no_loop)?.dispatcher(py))
        });
        match coroutine {
            Ok(coroutine) => {
                // SAFETY: what was there before, if anything, is ours.
                unsafe { ffi::Py_XDECREF(self.delegate) };
                self.delegate = coroutine.into_ptr();
                self.state = state;
                self.send(py, py.None().bind(py))
            }
            Err(error) => self.fail(error),
        }
    }

    fn delegate_turn(&mut self, py: Python<'_>) -> PyResult<Step> {
        self.delegate(py, State::AwaitsTurn, |this, slf| {
            slf.call_method1(intern!(py, "_turn"), (this.pool(py),)).map(Bound::unbind)
        })
    }

    fn delegate_result(&mut self, py: Python<'_>) -> PyResult<Step> {
        self.delegate(py, State::AwaitsResult, |this, slf| {
            // SAFETY: the items are alive, and so are the names.
            let (positional, named) = unsafe {
                let item = |&it: &*mut ffi::PyObject| Bound::from_borrowed_ptr(py, it);
                let (positional, values) = this.items().split_at(1 + this.n_positional());
                let positional = PyTuple::new(py, positional.iter().map(item))?;
                let named = pyo3::types::PyDict::new(py);
                for (idx, value) in values.iter().map(item).enumerate() {
                    let names = Bound::from_borrowed_ptr(py, this.names);
                    named.set_item(names.get_item(idx)?, value)?;
                }
                (positional, named)
            };
            let args = (this.pool(py), positional, named);
            slf.call_method1(intern!(py, "_call_abandonable"), args).map(Bound::unbind)
        })
    }

    fn delegate_returned(&mut self, py: Python<'_>, result: Py<PyAny>) -> PyResult<Step> {
        if self.state == State::AwaitsTurn {
            return self.run(py);
        }
        self.state = State::Done;
        Ok(Step::Returned(result))
    }

    /// Take a step with an exception thrown in.
    fn throw(&mut self, py: Python<'_>, args: &Bound<'_, PyTuple>) -> PyResult<Step> {
        if !matches!(self.state, State::AwaitsTurn | State::AwaitsResult) {
            return self.fail(thrown(args)?);
        }
        // SAFETY: a delegate is set while one is awaited.
        let delegate = unsafe { Bound::from_borrowed_ptr(py, self.delegate) };
        match delegate.call_method1(intern!(py, "throw"), args) {
            Ok(yielded) => Ok(Step::Yielded(yielded.unbind())),
            Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
                let result = error.value(py).getattr(intern!(py, "value"))?;
                self.delegate_returned(py, result.unbind())
            }
            Err(error) => self.fail(error),
        }
    }

    fn close(&mut self, py: Python<'_>) -> PyResult<()> {
        self.state = State::Done;
        if self.delegate.is_null() {
            return Ok(());
        }
        // SAFETY: see `throw`.
        let delegate = unsafe { Bound::from_borrowed_ptr(py, self.delegate) };
        delegate.call_method0(intern!(py, "close")).map(drop)
    }
}

fn no_loop() -> PyErr {
    PyRuntimeError::new_err(
        "threadlets.call() was awaited on a loop that is not threadlets': its functions need a \
         dispatcher to come back to; use threadlets.run(main()), or asyncio.Runner(loop_factory=\
         threadlets.new_event_loop)",
    )
}

/// The result of a call, unless it is a coroutine that nobody would await.
fn returned(py: Python<'_>, result: *mut ffi::PyObject) -> PyResult<Py<PyAny>> {
    // SAFETY: a new reference, or null with an exception set.
    let result = unsafe { Bound::from_owned_ptr_or_err(py, result)? };
    // SAFETY: looks at the type.
    if unsafe { ffi::PyCoro_CheckExact(result.as_ptr()) } != 0 {
        result.call_method0(intern!(py, "close"))?;
        let name = result.getattr(intern!(py, "__qualname__"))?;
        return Err(PyTypeError::new_err(format!(
            "{name}() is a coroutine function: it does not block, so it needs no threadlet; await \
             it directly"
        )));
    }
    Ok(result.unbind())
}

/// The exception that the arguments of `throw` stand for.
fn thrown(args: &Bound<'_, PyTuple>) -> PyResult<PyErr> {
    let exception = args.get_item(0)?;
    match args.get_item(1) {
        Ok(value) if !value.is_none() => {
            let is_ready = value.is_instance_of::<pyo3::exceptions::PyBaseException>();
            Ok(PyErr::from_value(if is_ready { value } else { exception.call1((value,))? }))
        }
        _ => Ok(PyErr::from_value(exception)),
    }
}

// -- the type ----------------------------------------------------------------------------------------

/// A method table's entry.
const fn method(
    name: &'static std::ffi::CStr,
    method: ffi::PyCFunctionFastWithKeywords,
    doc: &'static std::ffi::CStr,
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
    c"call(callable, /, *args, abandon_on_cancel=False, **kwargs)\n--\n\nCall a plain function where \
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

/// An attribute that is the function's.
const fn attribute(name: &'static std::ffi::CStr, of: &'static std::ffi::CStr) -> ffi::PyGetSetDef {
    ffi::PyGetSetDef {
        name: name.as_ptr(),
        get: Some(call_attribute),
        set: None,
        doc: c"The function's.".as_ptr(),
        closure: of.as_ptr().cast_mut().cast(),
    }
}

fn make_type(py: Python<'_>) -> PyResult<Py<PyType>> {
    let slot = |slot: c_int, pfunc: *mut c_void| ffi::PyType_Slot { slot, pfunc };
    let doc = c"A call of a plain function that is yet to be awaited.";
    let mut slots = [
        slot(ffi::Py_tp_doc, doc.as_ptr().cast_mut().cast()),
        slot(ffi::Py_tp_dealloc, call_dealloc as *mut c_void),
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
        name: c"threadlets._core.Call".as_ptr(),
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
        let object =
            ffi::PyType_GenericAlloc(made.as_ptr().cast(), args.len() as ffi::Py_ssize_t);
        let object = object.cast::<CallObject>();
        let Some(call) = object.as_mut() else { return object };
        // Memory comes zeroed: every reference is null.
        call.state = State::Fresh;
        let items = (&raw mut call.items).cast::<*mut ffi::PyObject>();
        for (idx, &arg) in args.iter().enumerate() {
            items.add(idx).write(ffi::Py_NewRef(arg));
        }
        if !names.is_null() {
            call.names = ffi::Py_NewRef(names);
        }
        object
    }
}

/// Take `abandon_on_cancel` out of the named arguments; its value, and what is left.
fn split_options<'py>(
    py: Python<'py>,
    args: &[*mut ffi::PyObject],
    names: &Bound<'py, PyTuple>,
) -> PyResult<Option<(bool, Vec<*mut ffi::PyObject>, Bound<'py, PyTuple>)>> {
    let option = intern!(py, "abandon_on_cancel");
    let mut is_option = names.iter().map(|name| name.eq(option));
    let Some(idx) = is_option.position(|it| it.unwrap_or(false)) else { return Ok(None) };
    let mut args = args.to_vec();
    let value = args.remove(args.len() - names.len() + idx);
    // SAFETY: the caller's arguments are alive.
    let value = unsafe { Bound::from_borrowed_ptr(py, value) }.is_truthy()?;
    let left = names.iter().enumerate().filter(|(at, _)| *at != idx).map(|(_, name)| name);
    let left = PyTuple::new(py, left.collect::<Vec<_>>())?;
    Ok(Some((value, args, left)))
}

unsafe extern "C" fn call(
    _module: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    n_args: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls with the GIL held and with arguments as it documents.
    unsafe {
        let n_named = if names.is_null() { 0 } else { ffi::PyTuple_GET_SIZE(names) };
        if n_args == 0 || ffi::PyCallable_Check(*args) == 0 {
            let what = c"threadlets.call() takes a function and its arguments; the first argument \
                is not callable";
            ffi::PyErr_SetString(ffi::PyExc_TypeError, what.as_ptr());
            return null_mut();
        }
        let args = std::slice::from_raw_parts(args, (n_args + n_named) as usize);
        if n_named == 0 {
            return make(args, null_mut()).cast();
        }
        let py = Python::assume_attached();
        let named = Bound::from_borrowed_ptr(py, names).cast_into_unchecked::<PyTuple>();
        match split_options(py, args, &named) {
            Ok(None) => make(args, names).cast(),
            Ok(Some((abandons, args, names))) => {
                let object = make(&args, if names.is_empty() { null_mut() } else { names.as_ptr() });
                if let Some(call) = object.as_mut()
                    && abandons
                {
                    call.state = State::FreshAbandonable;
                }
                object.cast()
            }
            Err(error) => {
                error.restore(py);
                null_mut()
            }
        }
    }
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
    // result. It awaits an object from one place at a time: nobody else refers to it mutably.
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

/// Give a step out as an iterator does.
fn as_iterator(py: Python<'_>, step: PyResult<Step>) -> *mut ffi::PyObject {
    let error = match step {
        Ok(Step::Yielded(it)) => return it.into_ptr(),
        Ok(Step::Returned(it)) => PyStopIteration::new_err((it,)),
        Err(error) => error,
    };
    error.restore(py);
    null_mut()
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
        let value = if n_args == 0 { py.None() } else { Bound::from_borrowed_ptr(py, *args).unbind() };
        as_iterator(py, (*slf.cast::<CallObject>()).send(py, value.bind(py)))
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
        let step = PyTuple::new(py, args)
            .and_then(|args| (*slf.cast::<CallObject>()).throw(py, &args));
        as_iterator(py, step)
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
        match (*slf.cast::<CallObject>()).close(py) {
            Ok(()) => py.None().into_ptr(),
            Err(error) => {
                error.restore(py);
                null_mut()
            }
        }
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
        let own = [ffi::Py_TYPE(slf).cast(), call.names, call.pool, call.delegate, call.held];
        for &object in own.iter().chain(call.items()).filter(|it| !it.is_null()) {
            let stopped = visit(object, arg);
            if stopped != 0 {
                return stopped;
            }
        }
        0
    }
}

unsafe extern "C" fn call_clear(slf: *mut ffi::PyObject) -> c_int {
    // SAFETY: nobody uses the object any more; each reference is given up once.
    unsafe {
        let call = &mut *slf.cast::<CallObject>();
        let items = (&raw mut call.items).cast::<*mut ffi::PyObject>();
        for idx in 0..call.head.ob_size as usize {
            ffi::Py_XDECREF(items.add(idx).replace(null_mut()));
        }
        for reference in
            [&mut call.names, &mut call.pool, &mut call.delegate, &mut call.held]
        {
            ffi::Py_XDECREF(std::mem::replace(reference, null_mut()));
        }
        0
    }
}

unsafe extern "C" fn call_dealloc(slf: *mut ffi::PyObject) {
    // SAFETY: the last reference is gone; the object is untracked before it is taken apart, and its
    // type, on which it had a reference, is released last.
    unsafe {
        ffi::PyObject_GC_UnTrack(slf.cast());
        let call = &*slf.cast::<CallObject>();
        if matches!(call.state, State::Fresh | State::FreshAbandonable)
            && !call.callable().is_null()
        {
            warn_never_awaited(Python::assume_attached(), call);
        }
        call_clear(slf);
        let its_type = ffi::Py_TYPE(slf);
        ffi::PyObject_GC_Del(slf.cast());
        ffi::Py_DECREF(its_type.cast());
    }
}

#[cold]
fn warn_never_awaited(py: Python<'_>, call: &CallObject) {
    let raised = PyErr::take(py);
    // SAFETY: the callable is alive until the object is cleared.
    let callable = unsafe { Bound::from_borrowed_ptr(py, call.callable()) };
    let name = callable.getattr(intern!(py, "__qualname__")).or_else(|_| callable.repr().map(Bound::into_any));
    let name = name.map_or_else(|_| "?".to_owned(), |it| it.to_string());
    let message = std::ffi::CString::new(format!("threadlet call of '{name}' was never awaited"));
    let category = py.get_type::<pyo3::exceptions::PyRuntimeWarning>();
    if let Ok(message) = message
        && let Err(error) = PyErr::warn(py, &category, &message, 1)
    {
        error.write_unraisable(py, Some(&callable));
    }
    if let Some(raised) = raised {
        raised.restore(py);
    }
}
