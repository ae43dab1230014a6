//! Flags: which floating-point exceptions a request raises in a block, without those of other requests.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use pyo3::prelude::*;
use pyo3::types::{PyFrozenSet, PyTuple};
use threadlets_core::fp::{self, State};

use super::carry::{self, Block, Counted};
use crate::py::interpreter;

/// The floating-point exceptions that were raised in a block, across its suspensions.
#[pyclass(frozen, module = "threadlets.fp")]
#[derive(Debug)]
pub(crate) struct Flags {
    seen: AtomicU8,
}

impl Flags {
    pub(super) fn record(&self, flags: fp::FlagBits) {
        self.seen.fetch_or(flags.bits(), Relaxed);
    }

    /// The flags that were recorded so far, and those still in the registers if the block is open here.
    fn seen(slf: &Bound<'_, Self>) -> PyResult<fp::FlagBits> {
        let py = slf.py();
        let context = interpreter::context_number(py);
        let mut block = carry::block(py)?;
        let mut inner = fp::FlagBits::read();
        while let Some(it) = block.as_ref().map(Bound::get) {
            let Some(recorder) = it.recorder_of(context) else { break };
            inner = inner.and(fp::FlagBits::from_bits(recorder.get().seen.load(Relaxed)));
            if recorder.is(slf) {
                slf.get().record(inner);
                break;
            }
            block = it.outer.as_ref().map(|it| it.bind(py).clone());
        }
        Ok(fp::FlagBits::from_bits(slf.get().seen.load(Relaxed)))
    }

    fn has(slf: &Bound<'_, Self>, flags: fp::FlagBits) -> PyResult<bool> {
        Ok(Self::seen(slf)?.has(flags))
    }
}

#[pymethods]
impl Flags {
    #[new]
    fn new() -> Self {
        Self { seen: AtomicU8::new(0) }
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        let py = slf.py();
        let flags_before = fp::FlagBits::read();
        let outer = carry::block(py)?;
        // Setting the variable makes the thread's context, if it has none.
        carry::set_block(py, outer.as_ref())?;
        let context = interpreter::context_number(py);
        let of_outer = outer.as_ref().map(|it| it.get());
        if let Some(recorder) = of_outer.and_then(|it| it.recorder_of(context)) {
            recorder.get().record(flags_before);
        }
        let before = State::read();
        let block = Block {
            made_by: slf.clone().into_any().unbind(),
            context,
            state: of_outer.map_or(State::DEFAULT, |it| it.state),
            before,
            flags_before,
            recorder: Some(slf.clone().unbind()),
            outer: outer.map(Bound::unbind),
            _counted: Counted::new(),
        };
        carry::set_block(py, Some(&Bound::new(py, block)?))?;
        fp::FlagBits::clear_all();
        Ok(slf.clone())
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(slf: &Bound<'_, Self>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        let py = slf.py();
        // See `Environment::end`.
        let Some(block) = carry::block(py)?.filter(|it| it.get().made_by.is(slf)) else {
            return Ok(());
        };
        let block = block.get();
        let context = interpreter::context_number(py);
        if block.context == context {
            slf.get().record(fp::FlagBits::read());
        }
        let outer = block.outer.as_ref().map(|it| it.bind(py));
        if let Some(recorder) = outer.and_then(|it| it.get().recorder_of(context)) {
            recorder.get().record(fp::FlagBits::from_bits(slf.get().seen.load(Relaxed)));
        }
        carry::set_block(py, outer)?;
        block.flags_before.raise();
        Ok(())
    }

    /// A result was rounded.
    #[getter]
    fn inexact(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::has(slf, fp::FlagBits::INEXACT)
    }

    /// A result was so small that it lost precision.
    #[getter]
    fn underflow(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::has(slf, fp::FlagBits::UNDERFLOW)
    }

    /// A result was too large.
    #[getter]
    fn overflow(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::has(slf, fp::FlagBits::OVERFLOW)
    }

    /// Finite operands gave an exact infinity.
    #[getter]
    fn divide_by_zero(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::has(slf, fp::FlagBits::DIVIDE_BY_ZERO)
    }

    /// A result was not a number, although the operands were numbers.
    #[getter]
    fn invalid(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::has(slf, fp::FlagBits::INVALID)
    }

    /// The names of all flags that were raised.
    #[getter]
    fn raised<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyFrozenSet>> {
        let seen = Self::seen(slf)?;
        let names = fp::FlagBits::NAMES.iter().filter(|(_, flag)| seen.has(*flag));
        PyFrozenSet::new(slf.py(), names.map(|(name, _)| *name))
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let seen = Self::seen(slf)?;
        let names = fp::FlagBits::NAMES.iter().filter(|(_, flag)| seen.has(*flag));
        Ok(format!("<flags {}>", names.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")))
    }
}
