//! The outcome of a run, converted to Python objects.

use pyo3::exceptions::{PyMemoryError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use threadlets_core::buffers::Refusal;
use threadlets_core::syslet::{End, Memory, ResultSpec, Run, Span};

use super::lease::LeasedMemory;
use super::result::SysletResult;
use crate::py::{address, memory};

/// The result of a run that has ended.
///
/// The result owns the run's descriptors from then on.
pub(crate) fn result(
    py: Python<'_>,
    run: &mut Run,
    constants: &[Py<PyAny>],
    input: Option<Py<PyAny>>,
) -> PyResult<SysletResult> {
    let Some(end) = run.end() else {
        return Err(PyValueError::new_err("the run has not ended"));
    };
    if end.is_failure {
        let errno = i32::try_from(-end.value).unwrap_or(i32::MAX);
        return Ok(SysletResult::new(py.None(), errno, &end, input));
    }
    let program = run.program().clone();
    let value = match convert(py, run, program.outcome_at(end.atom), end, constants) {
        // A failure is a result like any other; descriptors that the run has opened are closed with the run.
        Err(error) if error.is_instance_of::<PyMemoryError>(py) => {
            return Ok(SysletResult::new(py.None(), Refusal::NoMemory.errno(), &end, input));
        }
        value => value?,
    };
    let descriptors = run.take_descriptors();
    Ok(SysletResult::new(value, 0, &end, input).with_descriptors(descriptors))
}

fn convert(
    py: Python<'_>,
    run: &mut Run,
    outcome: &ResultSpec,
    end: End,
    constants: &[Py<PyAny>],
) -> PyResult<Py<PyAny>> {
    Ok(match outcome {
        ResultSpec::Atom => match run.program().bytes_read_by(end.atom) {
            Some(span) => memory::bytes(py, run.bytes(span))?.into_any().unbind(),
            None => end.value.into_pyobject(py)?.into_any().unbind(),
        },
        ResultSpec::Int(slot) | ResultSpec::Fd(slot) => {
            run.slot(*slot).into_pyobject(py)?.into_any().unbind()
        }
        ResultSpec::Nothing => py.None(),
        ResultSpec::Constant(idx) => constants[*idx].clone_ref(py),
        ResultSpec::Bytes(span) => memory::bytes(py, run.bytes(*span))?.into_any().unbind(),
        ResultSpec::Lease(span) => lease(py, run, *span)?,
        ResultSpec::Stat(first) => stat(py, run, *first)?,
        ResultSpec::Address(object) => match run.object(*object) {
            Memory::Address(it) => address::to_python(py, &it.to_address())?.unbind(),
            _ => py.None(),
        },
        ResultSpec::Tuple(parts) => {
            let parts: PyResult<Vec<_>> =
                parts.iter().map(|part| convert(py, run, part, end, constants)).collect();
            PyTuple::new(py, parts?)?.into_any().unbind()
        }
    })
}

/// Hand the memory over without a copy; memory that is not the run's own is copied.
fn lease(py: Python<'_>, run: &mut Run, span: Span) -> PyResult<Py<PyAny>> {
    // `bytes` also wipes what earlier users have left in the memory.
    let len = run.bytes(span).len();
    let start = run.start_of(span);
    let program = run.program().clone();
    let is_shared =
        run.end().is_some_and(|end| n_uses(program.outcome_at(end.atom), span.object) > 1);
    if is_shared {
        let copy = memory::copy(run.bytes(span), 0)?;
        return Ok(Py::new(py, LeasedMemory::grown(copy, 0, len))?.into_any());
    }
    let leased = match run.take_object(span.object) {
        Memory::Buffer { lease, .. } => LeasedMemory::pooled(lease, start, len),
        Memory::ReadBytes { lease: Some(lease), .. } => LeasedMemory::pooled(lease, start, len),
        // Nothing was read.
        Memory::ReadBytes { lease: None, .. } => LeasedMemory::grown(Vec::new(), 0, 0),
        Memory::Growing(bytes) => LeasedMemory::grown(bytes, start, len),
        other => {
            run.set_object(span.object, other);
            return Ok(memory::bytes(py, run.bytes(span))?.into_any().unbind());
        }
    };
    Ok(Py::new(py, leased)?.into_any())
}

/// How often an outcome uses an object.
fn n_uses(outcome: &ResultSpec, object: u16) -> usize {
    match outcome {
        ResultSpec::Bytes(span) | ResultSpec::Lease(span) => usize::from(span.object == object),
        ResultSpec::Tuple(parts) => parts.iter().map(|part| n_uses(part, object)).sum(),
        _ => 0,
    }
}

/// An `os.stat_result`; None if the atom has failed.
fn stat(py: Python<'_>, run: &Run, first: u16) -> PyResult<Py<PyAny>> {
    static TYPE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let its_type =
        TYPE.get_or_try_init(py, || py.import("os")?.getattr("stat_result").map(Bound::unbind))?;
    let field = |idx: u16| run.slot(first + idx);
    if (0..16).all(|idx| field(idx) == 0) {
        return Ok(py.None());
    }
    let [mode, nlink, uid, gid, ino, size] = [0, 1, 2, 3, 4, 5].map(field);
    let [atime_ns, mtime_ns, ctime_ns] = [8, 9, 10].map(field);
    let seconds = |time_ns: i64| time_ns.div_euclid(1_000_000_000);
    // As the interpreter computes it, to the last bit.
    let float =
        |time_ns: i64| seconds(time_ns) as f64 + 1e-9 * time_ns.rem_euclid(1_000_000_000) as f64;
    let base = (
        mode,
        // Inode numbers are unsigned.
        ino as u64,
        field(12),
        nlink,
        uid,
        gid,
        size,
        seconds(atime_ns),
        seconds(mtime_ns),
        seconds(ctime_ns),
    );
    let more = PyDict::new(py);
    for (name, time_ns) in [("atime", atime_ns), ("mtime", mtime_ns), ("ctime", ctime_ns)] {
        more.set_item(format!("st_{name}"), float(time_ns))?;
        more.set_item(format!("st_{name}_ns"), time_ns)?;
    }
    for (name, idx) in [("st_blksize", 7), ("st_blocks", 6), ("st_rdev", 13)] {
        more.set_item(name, field(idx))?;
    }
    // Since CPython 3.14 it refuses names that it does not have on this system.
    #[cfg(not(Py_3_14))]
    more.set_item("st_birthtime", float(field(11)))?;
    its_type.bind(py).call1((base, more)).map(Bound::unbind)
}

/// Parse an outcome in Python's notation: `("int", slot)`, `("tuple", (…))`, …; constants are collected.
pub(crate) fn parse(
    outcome: &Bound<'_, PyTuple>,
    constants: &mut Vec<Py<PyAny>>,
) -> PyResult<ResultSpec> {
    let name: String = outcome.get_item(0)?.extract()?;
    let index = |idx: usize| -> PyResult<u16> { super::program::index(&outcome.get_item(idx)?) };
    let span = || -> PyResult<Span> {
        Ok(Span { object: index(1)?, start: index(2)?, length: index(3)? })
    };
    Ok(match name.as_str() {
        "atom" => ResultSpec::Atom,
        "int" => ResultSpec::Int(index(1)?),
        "fd" => ResultSpec::Fd(index(1)?),
        "none" => ResultSpec::Nothing,
        "const" => {
            constants.push(outcome.get_item(1)?.unbind());
            ResultSpec::Constant(constants.len() - 1)
        }
        "bytes" => ResultSpec::Bytes(span()?),
        "lease" => ResultSpec::Lease(span()?),
        "stat" => ResultSpec::Stat(index(1)?),
        "address" => ResultSpec::Address(index(1)?),
        "tuple" => {
            let parts = outcome.get_item(1)?;
            let parts = parts.cast::<PyTuple>()?.iter();
            let parts: PyResult<Vec<ResultSpec>> =
                parts.map(|part| parse(part.cast::<PyTuple>()?, constants)).collect();
            ResultSpec::Tuple(parts?.into())
        }
        other => return Err(PyTypeError::new_err(format!("there is no outcome '{other}'"))),
    })
}
