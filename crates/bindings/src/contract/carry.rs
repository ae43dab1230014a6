//! What a request carries from thread to thread: its environment, the recorder of its flags, its `errno`.
//!
//! They are in its `contextvars.Context`, in two variables. Entering a context puts the thread into the
//! carried state, and leaving it saves the state that is to be carried on. A copy of the context therefore
//! inherits the environment; flags and `errno` belong to one context.
//!
//! None of this costs anything while nothing in the process is carried, which a count tells.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use threadlets_core::fp::{self, State};

use super::errno;
use super::flags::Flags;
use crate::py::interpreter;

/// How many blocks and `errno`s are carried in the process.
static N_CARRIED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The states found and expected when a request left its context.
    static VIOLATION: Cell<Option<(State, State)>> = const { Cell::new(None) };
}

/// Take the states that were found and expected when the last request left its context, if they differed.
pub(super) fn take_violation() -> Option<(State, State)> {
    VIOLATION.take()
}

/// Whether anything in the process is carried.
#[inline]
pub(super) fn is_in_use() -> bool {
    N_CARRIED.load(Relaxed) > 0
}

/// Counts in `N_CARRIED` while it lives.
#[derive(Debug)]
pub(super) struct Counted;

impl Counted {
    pub(super) fn new() -> Self {
        N_CARRIED.fetch_add(1, Relaxed);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        N_CARRIED.fetch_sub(1, Relaxed);
    }
}

/// An open `with` block: what it set, and what was before. The value of a context variable.
#[pyclass(frozen, module = "threadlets._core")]
#[derive(Debug)]
pub(crate) struct Block {
    /// The environment or the flags whose block it is.
    pub(super) made_by: Py<PyAny>,
    /// The context in which it was opened, as a number: a copy of it has another.
    pub(super) context: usize,
    /// The floating-point state of code in the block.
    pub(super) state: State,
    /// What the thread's registers held before.
    pub(super) before: State,
    /// Flags that were raised before.
    pub(super) flags_before: fp::FlagBits,
    /// The recorder of flags, for the context where the block was opened.
    pub(super) recorder: Option<Py<Flags>>,
    pub(super) outer: Option<Py<Self>>,
    pub(super) _counted: Counted,
}

#[pymethods]
impl Block {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.made_by)?;
        visit.call(&self.recorder)?;
        visit.call(&self.outer)
    }
}

impl Block {
    /// The recorder of the flags that are raised in this context.
    pub(super) fn recorder_of(&self, context: usize) -> Option<&Py<Flags>> {
        self.recorder.as_ref().filter(|_| self.context == context)
    }
}

fn variable<'py>(
    py: Python<'py>,
    cell: &'static PyOnceLock<Py<PyAny>>,
    name: &str,
) -> PyResult<&'py Bound<'py, PyAny>> {
    let made = cell.get_or_try_init(py, || {
        let make = py.import("contextvars")?.getattr("ContextVar")?;
        Ok::<_, PyErr>(make.call1((name,))?.unbind())
    })?;
    Ok(made.bind(py))
}

fn block_variable(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static BLOCK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    variable(py, &BLOCK, "threadlets.fp")
}

pub(super) fn errno_variable(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static ERRNO: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    variable(py, &ERRNO, "threadlets.errno")
}

/// A variable's value in `context`, or in the current one.
fn value<'py>(
    variable: &Bound<'py, PyAny>,
    context: Option<&Bound<'py, PyAny>>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let found = match context {
        Some(context) => Some(context.call_method1(intern!(variable.py(), "get"), (variable,))?),
        None => interpreter::context_variable(variable)?,
    };
    Ok(found.filter(|it| !it.is_none()))
}

/// The innermost block of the current context.
pub(super) fn block(py: Python<'_>) -> PyResult<Option<Bound<'_, Block>>> {
    block_in(py, None)
}

fn block_in<'py>(
    py: Python<'py>,
    context: Option<&Bound<'py, PyAny>>,
) -> PyResult<Option<Bound<'py, Block>>> {
    if !is_in_use() {
        return Ok(None);
    }
    let found = value(block_variable(py)?, context)?;
    Ok(found.map(|it| it.cast_into::<Block>()).transpose()?)
}

/// Set the innermost block of the current context; `None`: no block.
pub(super) fn set_block(py: Python<'_>, block: Option<&Bound<'_, Block>>) -> PyResult<()> {
    interpreter::set_context_variable(block_variable(py)?, block.map(|it| it.as_any()))
}

/// The state of this thread before a context was entered.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    /// None: nothing was carried, so it was the default state.
    before: Option<State>,
}

/// After the context of a request was entered: put this thread into the state that it carries.
#[inline]
pub(crate) fn enter(py: Python<'_>) -> Carried {
    threadlets_core::errno::clear();
    if !is_in_use() {
        return Carried::default();
    }
    bring(py, None)
}

/// As `enter`, for a context that other code is about to enter.
#[inline]
pub(crate) fn enter_of(context: &Bound<'_, PyAny>) -> Carried {
    threadlets_core::errno::clear();
    if !is_in_use() {
        return Carried::default();
    }
    bring(context.py(), Some(context))
}

#[inline(never)]
fn bring<'py>(py: Python<'py>, context: Option<&Bound<'py, PyAny>>) -> Carried {
    let before = State::read();
    let brought = (|| {
        let number =
            context.map_or_else(|| interpreter::context_number(py), |it| it.as_ptr() as usize);
        if let Some(block) = block_in(py, context)? {
            let block = block.get();
            if block.state != before {
                block.state.restore();
            }
            if block.recorder_of(number).is_some() {
                fp::FlagBits::clear_all();
            }
        }
        if let Some(carried) = value(errno_variable(py)?, context)? {
            errno::bring(&carried, number)?;
        }
        Ok::<_, PyErr>(())
    })();
    if let Err(error) = brought {
        error.write_unraisable(py, None);
    }
    Carried { before: Some(before) }
}

/// After a request has run, before its context is left: save what it carries on.
#[inline]
pub(crate) fn leave(py: Python<'_>, carried: Carried) {
    let errno = errno::take();
    if errno.is_none() && !is_in_use() {
        return;
    }
    put_away(py, carried, errno, None);
}

/// As `leave`, for a context that other code has left.
#[inline]
pub(crate) fn leave_of(context: &Bound<'_, PyAny>, carried: Carried) {
    let errno = errno::take();
    if errno.is_none() && !is_in_use() {
        return;
    }
    put_away(context.py(), carried, errno, Some(context));
}

#[inline(never)]
fn put_away<'py>(
    py: Python<'py>,
    carried: Carried,
    errno: Option<i32>,
    context: Option<&Bound<'py, PyAny>>,
) {
    // The request may have failed: its exception is kept aside while Python is called here.
    let raised = PyErr::take(py);
    let before = carried.before.unwrap_or(State::DEFAULT);
    let found = State::read();
    let mut expected = before;
    let put = (|| {
        let number =
            context.map_or_else(|| interpreter::context_number(py), |it| it.as_ptr() as usize);
        if let Some(block) = block_in(py, context)? {
            let block = block.get();
            expected = block.state;
            if let Some(recorder) = block.recorder_of(number) {
                recorder.get().record(fp::FlagBits::read());
            }
        }
        let variable = errno_variable(py)?;
        let carried = if is_in_use() { value(variable, context)? } else { None };
        errno::put_away(variable, context, carried, number, errno)
    })();
    if found != expected {
        VIOLATION.set(Some((found, expected)));
    }
    if found != before {
        before.restore();
    }
    if let Err(error) = put {
        error.write_unraisable(py, None);
    }
    if let Some(raised) = raised {
        raised.restore(py);
    }
}
