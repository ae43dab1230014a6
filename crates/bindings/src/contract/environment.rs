//! Environments: the floating-point state of a block's or a function's code, on whichever thread it runs.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use threadlets_core::fp::{self, Rounding, State};

use super::carry::{self, Block, Counted};
use super::in_context;
use crate::py::interpreter;

/// A floating-point environment: rounding, and the treatment of denormals. The rest is as outside.
///
/// It can be entered any number of times, at once and one inside another.
#[pyclass(frozen, module = "threadlets.fp")]
#[derive(Debug)]
pub(crate) struct Environment {
    rounding: Option<Rounding>,
    flush_to_zero: Option<bool>,
    denormals_are_zero: Option<bool>,
}

impl Environment {
    fn over(&self, outside: State) -> State {
        let mut state = outside;
        if let Some(rounding) = self.rounding {
            state = state.with_rounding(rounding);
        }
        if let Some(flushes) = self.flush_to_zero {
            state = state.with_flush_to_zero(flushes);
        }
        if let Some(are_zero) = self.denormals_are_zero {
            state = state.with_denormals_as_zero(are_zero);
        }
        state
    }

    /// Open a block of the current context; the thread's registers are left alone.
    fn open(slf: &Bound<'_, Self>) -> PyResult<State> {
        let py = slf.py();
        let outer = carry::block(py)?;
        let outside = outer.as_ref().map_or(State::DEFAULT, |it| it.get().state);
        let state = slf.get().over(outside);
        // Setting the variable makes the thread's context, if it has none.
        carry::set_block(py, outer.as_ref())?;
        let context = interpreter::context_number(py);
        let recorder = outer.as_ref().and_then(|it| it.get().recorder_of(context));
        let block = Block {
            made_by: slf.clone().into_any().unbind(),
            context,
            state,
            before: State::read(),
            flags_before: fp::FlagBits::NONE,
            recorder: recorder.map(|it| it.clone_ref(py)),
            outer: outer.map(Bound::unbind),
            _counted: Counted::new(),
        };
        carry::set_block(py, Some(&Bound::new(py, block)?))?;
        Ok(state)
    }

    /// Enter the environment, in the current context.
    pub(crate) fn begin(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::open(slf)?.restore();
        Ok(())
    }

    /// Leave the environment: restore the state before it.
    pub(crate) fn end(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        // A block is closed only if it is the innermost of this context: a generator may be finalized in
        // another one, for instance.
        let Some(block) = carry::block(py)?.filter(|it| it.get().made_by.is(slf)) else {
            return Ok(());
        };
        let block = block.get();
        carry::set_block(py, block.outer.as_ref().map(|it| it.bind(py)))?;
        block.before.restore();
        Ok(())
    }
}

#[pymethods]
impl Environment {
    #[new]
    #[pyo3(signature = (*, rounding=None, flush_to_zero=None, denormals_are_zero=None))]
    fn new(
        rounding: Option<&str>,
        flush_to_zero: Option<bool>,
        denormals_are_zero: Option<bool>,
    ) -> PyResult<Self> {
        let parse = |name: &str| {
            let known = Rounding::NAMES.iter().find(|(it, _)| *it == name);
            known.map(|(_, it)| *it).ok_or_else(|| {
                PyValueError::new_err(format!(
                    "rounding is {name:?}; it is 'nearest', 'upward', 'downward' or 'toward-zero'"
                ))
            })
        };
        Ok(Self { rounding: rounding.map(parse).transpose()?, flush_to_zero, denormals_are_zero })
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        Self::begin(slf)?;
        Ok(slf.clone())
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(slf: &Bound<'_, Self>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        Self::end(slf)
    }

    /// Call `function(*args, **kwargs)` in the environment and return its result.
    #[pyo3(signature = (function, /, *args, **kwargs))]
    fn run<'py>(
        slf: &Bound<'py, Self>,
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::begin(slf)?;
        let result = function.call(args, kwargs);
        Self::end(slf)?;
        result
    }

    /// Have code that runs in `context` from now on, for as long as that lives, compute in the environment.
    fn apply_to(slf: &Bound<'_, Self>, context: Py<PyAny>) -> PyResult<()> {
        // The context is entered only to set its variable: the registers stay as they are.
        let now = State::read();
        let opened = in_context(slf.py(), &context, || Self::open(slf).map(|it| it.restore()));
        now.restore();
        opened
    }

    fn __repr__(&self) -> String {
        let named = |name: &str, value: Option<bool>| {
            value.map(|it| format!("{name}={}", if it { "True" } else { "False" }))
        };
        let said: Vec<String> = [
            self.rounding.map(|it| format!("rounding={:?}", it.name())),
            named("flush_to_zero", self.flush_to_zero),
            named("denormals_are_zero", self.denormals_are_zero),
        ]
        .into_iter()
        .flatten()
        .collect();
        format!("environment({})", said.join(", "))
    }
}

/// Return the state of this thread: rounding, flush to zero, denormals are zero, and in words what differs
/// from the default.
#[pyfunction]
pub(crate) fn fp_state() -> (&'static str, bool, bool, String) {
    let state = State::read();
    let changes = if state == State::DEFAULT {
        String::new()
    } else {
        state.changes_from(State::DEFAULT).to_string()
    };
    (state.rounding().name(), state.flushes_to_zero(), state.takes_denormals_as_zero(), changes)
}
