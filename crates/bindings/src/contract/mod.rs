//! The contract: the floating-point state and `errno` that every request finds and has to leave behind.
//!
//! When a request has run, the state is compared with the expected one; a violation is reported and counted
//! with the request's name, and the state is restored before the next request. A request takes state of its
//! own along in its `contextvars.Context` (`carry.rs`).
//!
//! Comparing is on the path of every request. Naming is not, and is left to Python
//! (`ThreadedDispatcher._state_changed`).

mod carry;
mod context;
mod environment;
mod errno;
mod flags;
mod locals;

use pyo3::ffi;
use pyo3::prelude::*;
use threadlets_core::fp::State;

pub(crate) use carry::{enter_of, leave_of};
pub(crate) use context::in_context;
pub(crate) use environment::{Environment, fp_state};
pub(crate) use flags::Flags;
pub(crate) use locals::listening;

use crate::dispatcher::{Dispatcher, hooks};
use crate::py::error::ends_the_loop;

/// Compare the state after a request has run; a violation is reported with the name of `subject`.
///
/// Called outside of the request's context, with the callable, protocol or task that ran.
#[inline]
pub(crate) fn check<'a, 'py: 'a>(
    slf: &Bound<'py, Dispatcher>,
    subject: impl FnOnce() -> Option<Bound<'py, PyAny>>,
) -> PyResult<()> {
    check_within(slf, State::DEFAULT, subject)
}

/// As `check`, in the middle of another request, whose state is `expected`.
#[inline]
pub(crate) fn check_within<'a, 'py: 'a>(
    slf: &Bound<'py, Dispatcher>,
    expected: State,
    subject: impl FnOnce() -> Option<Bound<'py, PyAny>>,
) -> PyResult<()> {
    if slf.get().fp_policy.is_off() || (State::read() == expected && !carry::is_in_use()) {
        return Ok(());
    }
    check_closely(slf, expected, subject)
}

#[inline(never)]
fn check_closely<'py>(
    slf: &Bound<'py, Dispatcher>,
    outside: State,
    subject: impl FnOnce() -> Option<Bound<'py, PyAny>>,
) -> PyResult<()> {
    let found = State::read();
    let violation = carry::take_violation().or((found != outside).then_some((found, outside)));
    let Some((found, expected)) = violation else { return Ok(()) };
    outside.restore();
    match report(slf, subject(), found, expected, false) {
        Err(error) if !ends_the_loop(slf.py(), &error) => {
            error.write_unraisable(slf.py(), Some(slf));
            Ok(())
        }
        outcome => outcome,
    }
}

/// Have Python name, count and report the request that changed the state.
#[cold]
fn report(
    slf: &Bound<'_, Dispatcher>,
    subject: Option<Bound<'_, PyAny>>,
    found: State,
    expected: State,
    is_threadlet: bool,
) -> PyResult<()> {
    let changes = found.changes_from(expected).to_string();
    let policy = slf.get().fp_policy.name();
    hooks::state_changed(slf, subject, changes, policy, is_threadlet).map(drop)
}

/// Call a function as a threadlet, in an environment if it is given one, and compare: the awaiting code
/// goes on in the state that it was in. A violation is an error if the policy is to raise.
#[inline]
pub(crate) fn call_threadlet(
    slf: &Bound<'_, Dispatcher>,
    callable: *mut ffi::PyObject,
    environment: Option<&Bound<'_, Environment>>,
    call: impl FnOnce() -> *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    if let Some(environment) = environment {
        return call_within(slf, callable, environment, call);
    }
    if slf.get().fp_policy.is_off() {
        return call();
    }
    let expected = State::read();
    let result = call();
    if State::read() == expected {
        return result;
    }
    threadlet_changed(slf, callable, expected, result)
}

#[inline(never)]
fn call_within(
    slf: &Bound<'_, Dispatcher>,
    callable: *mut ffi::PyObject,
    environment: &Bound<'_, Environment>,
    call: impl FnOnce() -> *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let py = slf.py();
    if let Err(error) = Environment::begin(environment) {
        error.restore(py);
        return std::ptr::null_mut();
    }
    let result = call_threadlet(slf, callable, None, call);
    let raised = PyErr::take(py);
    let ended = Environment::end(environment);
    match (raised, ended) {
        (Some(error), _) => error.restore(py),
        (None, Err(error)) => error.write_unraisable(py, Some(environment)),
        (None, Ok(())) => {}
    }
    result
}

#[cold]
#[inline(never)]
fn threadlet_changed(
    slf: &Bound<'_, Dispatcher>,
    callable: *mut ffi::PyObject,
    expected: State,
    result: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let py = slf.py();
    let found = State::read();
    expected.restore();
    let raised = PyErr::take(py);
    // SAFETY: the caller's callable is alive; the result, unless null, is ours.
    let (subject, result) = unsafe {
        (Bound::from_borrowed_ptr(py, callable), Bound::from_owned_ptr_or_opt(py, result))
    };
    let outcome = report(slf, Some(subject), found, expected, true);
    // An exception of the function itself takes precedence.
    match raised.map_or(outcome, Err) {
        Ok(()) => result.map_or(std::ptr::null_mut(), Bound::into_ptr),
        Err(error) => {
            error.restore(py);
            std::ptr::null_mut()
        }
    }
}
