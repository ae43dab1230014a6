//! `Program`: the table that Python has lowered a syslet to, checked and ready to run.

use std::sync::Arc;

use pyo3::PyTraverseError;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};
use threadlets_core::buffers::BufferPool;
use threadlets_core::syslet::inline::{self, Budget};
use threadlets_core::syslet::program::NONE;
use threadlets_core::syslet::{Atom, AtomFlags, Flow, Object, Op, Program, Run, Span, Stopped};

use super::argument::{self, Parameter, ParameterKind};
use super::engine::{self, PyBufferPool};
use super::outcome;
use super::pending::Pending;
use super::result::SysletResult;
use crate::dispatcher::Dispatcher;
use crate::py::memory;

/// A program of atoms, as `threadlets.syslets` lowers them.
#[pyclass(frozen, module = "threadlets._core", name = "Program")]
#[derive(Debug)]
pub(crate) struct SysletProgram {
    program: Arc<Program>,
    name: String,
    parameters: Vec<Parameter>,
    constants: Vec<Py<PyAny>>,
}

/// How a run has left the inline executor.
pub(crate) enum Started {
    Ended(Box<Run>),
    Blocked(Box<Run>),
}

impl SysletProgram {
    /// A run of the program with these arguments, and memory from this pool.
    pub(crate) fn run_with(
        &self,
        py: Python<'_>,
        args: &[Bound<'_, PyAny>],
        kwargs: Option<&Bound<'_, PyDict>>,
        pool: Arc<BufferPool>,
    ) -> PyResult<Box<Run>> {
        let mut run = self.new_run(&pool);
        match kwargs {
            None => self.fill(py, &mut run, args)?,
            Some(_) => self.fill_by_name(py, &mut run, args, kwargs)?,
        }
        Ok(run)
    }

    /// Set the arguments of a run that is to begin.
    pub(crate) fn fill(
        &self,
        py: Python<'_>,
        run: &mut Run,
        args: &[Bound<'_, PyAny>],
    ) -> PyResult<()> {
        if args.len() != self.parameters.len() {
            return self.fill_by_name(py, run, args, None);
        }
        self.parameters.iter().zip(args).try_for_each(|(it, value)| it.fill(run, value))
    }

    #[cold]
    fn fill_by_name(
        &self,
        py: Python<'_>,
        run: &mut Run,
        args: &[Bound<'_, PyAny>],
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let name = &self.name;
        if args.len() > self.parameters.len() {
            return Err(PyTypeError::new_err(format!(
                "{name}() takes {} arguments but {} were given",
                self.parameters.len(),
                args.len()
            )));
        }
        let named = match kwargs {
            Some(kwargs) => kwargs.copy()?,
            None => PyDict::new(py),
        };
        for (idx, parameter) in self.parameters.iter().enumerate() {
            let its_name = parameter.name.bind(py);
            let by_name = named.get_item(its_name)?;
            if by_name.is_some() {
                named.del_item(its_name)?;
            }
            let default = parameter.default.as_ref().map(|it| it.bind(py).clone());
            let value = match (args.get(idx), by_name) {
                (Some(_), Some(_)) => {
                    return Err(PyTypeError::new_err(format!(
                        "{name}() got multiple values for argument '{its_name}'"
                    )));
                }
                (Some(value), None) => value.clone(),
                (None, by_name) => by_name.or(default).ok_or_else(|| {
                    PyTypeError::new_err(format!("{name}() misses argument '{its_name}'"))
                })?,
            };
            parameter.fill(run, &value)?;
        }
        match named.keys().iter().next() {
            Some(unknown) => Err(PyTypeError::new_err(format!(
                "{name}() got an unexpected keyword argument '{unknown}'"
            ))),
            None => Ok(()),
        }
    }

    /// How many arguments a run takes.
    pub(crate) fn n_parameters(&self) -> usize {
        self.parameters.len()
    }

    /// The result of a run that has ended.
    pub(crate) fn result(
        &self,
        py: Python<'_>,
        run: &mut Run,
        input: Option<Py<PyAny>>,
    ) -> PyResult<SysletResult> {
        outcome::result(py, run, &self.constants, input)
    }

    /// A run of the program, whose arguments are yet to be set.
    pub(crate) fn new_run(&self, pool: &Arc<BufferPool>) -> Box<Run> {
        Box::new(Run::new(Arc::clone(&self.program), Arc::clone(pool)))
    }

    /// Run to the end on this thread, without the GIL, however long it takes.
    pub(crate) fn perform(&self, py: Python<'_>, mut run: Box<Run>) -> PyResult<SysletResult> {
        loop {
            // A signal ends a system call: its Python handler runs before the next.
            py.check_signals()?;
            let stopped = py.detach(|| inline::advance(&mut run, Budget::OWN_THREAD));
            if stopped == Stopped::Ended {
                return self.result(py, &mut run, None);
            }
            py.check_signals()?;
            if stopped == Stopped::WouldBlock
                && py.detach(|| inline::perform_one(&mut run)) == Flow::Ended
            {
                return self.result(py, &mut run, None);
            }
        }
    }

    /// Run until an atom would block; without the GIL if the program has atoms that it wants to block.
    pub(crate) fn start_here(
        py: Python<'_>,
        run: Box<Run>,
        tries_first: bool,
    ) -> PyResult<Started> {
        if run.program().may_block() {
            py.check_signals()?;
            return Ok(py.detach(|| Self::start(run, tries_first)));
        }
        Ok(Self::start(run, tries_first))
    }

    /// Run until an atom would block.
    pub(crate) fn start(mut run: Box<Run>, tries_first: bool) -> Started {
        if tries_first && inline::advance(&mut run, Budget::SHARED_THREAD) == Stopped::Ended {
            return Started::Ended(run);
        }
        Started::Blocked(run)
    }

    /// Run to the end on this thread, however long it takes and whatever signals come.
    fn perform_all(mut run: Box<Run>) -> Box<Run> {
        loop {
            match inline::advance(&mut run, Budget::OWN_THREAD) {
                Stopped::Ended => return run,
                Stopped::BudgetSpent => {}
                Stopped::WouldBlock => {
                    if inline::perform_one(&mut run) == Flow::Ended {
                        return run;
                    }
                }
            }
        }
    }
}

/// An index of a table; -1 is none.
pub(crate) fn index(value: &Bound<'_, PyAny>) -> PyResult<u16> {
    match value.extract::<i64>()? {
        -1 => Ok(NONE),
        value => u16::try_from(value).ok().filter(|it| *it != NONE).ok_or_else(|| {
            PyValueError::new_err(format!("the index {value} is out of range; it is below 65535"))
        }),
    }
}

fn parse_atom(atom: &Bound<'_, PyTuple>) -> PyResult<Atom> {
    type Fields<'py> = (String, Bound<'py, PyTuple>, i64, i64, u8, i64);
    let (name, operands, result, next, flags, outcome): Fields<'_> = atom.extract()?;
    let py = atom.py();
    let op = Op::by_name(&name)
        .ok_or_else(|| PyValueError::new_err(format!("there is no operation '{name}'")))?;
    let n_words: usize = op.operands().iter().map(|it| it.n_words()).sum();
    if operands.len() != n_words {
        let n_given = operands.len();
        let message = format!("{name} takes {n_words} operand words, but {n_given} were given");
        return Err(PyValueError::new_err(message));
    }
    let mut words = [NONE; 6];
    for (word, operand) in words.iter_mut().zip(operands) {
        *word = index(&operand)?;
    }
    let index = |value: i64| index(value.into_pyobject(py)?.as_any());
    let (result, next, outcome) = (index(result)?, index(next)?, index(outcome)?);
    Ok(Atom { op, words, result, next, flags: AtomFlags::from_bits(flags), outcome })
}

fn parse_object(object: &Bound<'_, PyTuple>) -> PyResult<Object> {
    let name: String = object.get_item(0)?.extract()?;
    let first = || object.get_item(1);
    Ok(match name.as_str() {
        "path" if first()?.is_none() => Object::PathGiven,
        "path" => Object::Path(argument::path(&first()?)?),
        "address" if first()?.is_none() => Object::AddressGiven,
        "address" => Object::Address(argument::address(&first()?)?.bytes().into()),
        "buffer" => Object::Buffer(index(&first()?)?),
        "read_bytes" => {
            Object::ReadBytes { size: index(&first()?)?, length: index(&object.get_item(2)?)? }
        }
        "growing" => {
            let hint = object.get_item(2).map_or(Ok(NONE), |it| index(&it))?;
            Object::Growing { limit: index(&first()?)?, hint }
        }
        "data" => Object::Data(memory::copy(first()?.cast::<PyBytes>()?.as_bytes(), 0)?.into()),
        "lent" => Object::Lent,
        "vector" => {
            let spans = first()?;
            let spans = spans.cast::<PyTuple>()?.iter().map(|span| {
                let (object, start, length): (Bound<'_, _>, Bound<'_, _>, Bound<'_, _>) =
                    span.extract()?;
                Ok(Span { object: index(&object)?, start: index(&start)?, length: index(&length)? })
            });
            Object::Vector(spans.collect::<PyResult<_>>()?)
        }
        other => return Err(PyValueError::new_err(format!("there is no object '{other}'"))),
    })
}

fn parse_parameter(
    parameter: &Bound<'_, PyTuple>,
    n_slots: usize,
    n_objects: usize,
) -> PyResult<Parameter> {
    type Fields<'py> = (Bound<'py, PyString>, String, Bound<'py, PyAny>, Bound<'py, PyAny>);
    let (name, kind_name, at, default): Fields<'_> = parameter.extract()?;
    let kind = ParameterKind::by_name(&kind_name)
        .ok_or_else(|| PyValueError::new_err(format!("there is no kind '{kind_name}'")))?;
    let at = index(&at)?;
    let n_places = if kind.is_object() { n_objects } else { n_slots };
    if usize::from(at) >= n_places {
        let message = format!("parameter '{name}' fills the place {at}, which does not exist");
        return Err(PyValueError::new_err(message));
    }
    let is_given = !default.is(parameter.py().Ellipsis());
    let default = is_given.then(|| default.unbind());
    Ok(Parameter { name: name.unbind(), kind, index: at, default })
}

#[pymethods]
impl SysletProgram {
    #[new]
    #[pyo3(signature = (name, atoms, slots, objects, parameters, outcomes))]
    fn new(
        name: String,
        atoms: Vec<Bound<'_, PyTuple>>,
        slots: Vec<i64>,
        objects: Vec<Bound<'_, PyTuple>>,
        parameters: Vec<Bound<'_, PyTuple>>,
        outcomes: Vec<Bound<'_, PyTuple>>,
    ) -> PyResult<Self> {
        let mut constants = Vec::new();
        let parse_outcome = |it: &Bound<'_, PyTuple>| outcome::parse(it, &mut constants);
        let outcomes: PyResult<Vec<_>> = outcomes.iter().map(parse_outcome).collect();
        let parameters: PyResult<Vec<_>> =
            parameters.iter().map(|it| parse_parameter(it, slots.len(), objects.len())).collect();
        let atoms: PyResult<Vec<_>> = atoms.iter().map(parse_atom).collect();
        let objects: PyResult<Vec<_>> = objects.iter().map(parse_object).collect();
        let program = Program::new(atoms?, slots, objects?, outcomes?)
            .map_err(|error| PyValueError::new_err(format!("{name}: {error}")))?;
        check_memory(&program, &parameters)?;
        Ok(Self { program: Arc::new(program), name, parameters: parameters?, constants })
    }

    /// Run the program on this thread, and return its result; an atom that blocks, blocks this thread,
    /// without the GIL.
    #[pyo3(signature = (args, kwargs=None, pool=None))]
    fn execute(
        &self,
        py: Python<'_>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
        pool: Option<&PyBufferPool>,
    ) -> PyResult<SysletResult> {
        let args: Vec<_> = args.iter().collect();
        let run = self.run_with(py, &args, kwargs, pool_or_default(pool))?;
        self.perform(py, run)
    }

    /// Run the program until an atom would block; return its result, or the `Pending` of the run, which the
    /// engine carries on.
    #[pyo3(signature = (dispatcher, args, kwargs=None, pool=None))]
    fn begin(
        slf: &Bound<'_, Self>,
        dispatcher: &Bound<'_, Dispatcher>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
        pool: Option<&PyBufferPool>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let this = slf.get();
        let args: Vec<_> = args.iter().collect();
        let run = this.run_with(py, &args, kwargs, pool_or_default(pool))?;
        let engine = engine::current()?;
        match Self::start_here(py, run, engine.tries_first())? {
            Started::Ended(mut run) => {
                Ok(Py::new(py, this.result(py, &mut run, None)?)?.into_any())
            }
            Started::Blocked(run) => {
                let submitted = Pending::submit(dispatcher, slf, &engine, run, false);
                Ok(submitted.map_err(|(error, _)| error)?.into_any().unbind())
            }
        }
    }

    /// Run the program to its end: neither cancelling its `Pending` nor closing the loop ends it. Without a
    /// loop, or an engine that can carry it on, all of it is run on this thread.
    fn finish(
        slf: &Bound<'_, Self>,
        dispatcher: Option<&Bound<'_, Dispatcher>>,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let this = slf.get();
        let args: Vec<_> = args.iter().collect();
        let run = this.run_with(py, &args, None, engine::default_pool())?;
        let mut run = match dispatcher.zip(engine::current().ok()) {
            None => py.detach(|| Self::perform_all(run)),
            Some((dispatcher, engine)) => {
                match py.detach(|| Self::start(run, engine.tries_first())) {
                    Started::Ended(run) => run,
                    Started::Blocked(run) => {
                        match Pending::submit(dispatcher, slf, &engine, run, true) {
                            Ok(pending) => return Ok(pending.into_any().unbind()),
                            Err((_, run)) => py.detach(|| Self::perform_all(run)),
                        }
                    }
                }
            }
        };
        Ok(Py::new(py, this.result(py, &mut run, None)?)?.into_any())
    }

    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    fn __repr__(&self) -> String {
        format!("<Program {} of {} atoms>", self.name, self.program.atoms().len())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.constants.iter().try_for_each(|it| visit.call(it))?;
        self.parameters.iter().try_for_each(|it| visit.call(&it.default))
    }
}

pub(crate) fn pool_or_default(pool: Option<&PyBufferPool>) -> Arc<BufferPool> {
    pool.map_or_else(engine::default_pool, |it| Arc::clone(&it.0))
}

/// Check that memory that is written to is lent for writing, and that parameters fill all given objects.
fn check_memory(program: &Program, parameters: &PyResult<Vec<Parameter>>) -> PyResult<()> {
    let Ok(parameters) = parameters else { return Ok(()) };
    for (idx, object) in program.objects().iter().enumerate() {
        let filling = parameters
            .iter()
            .find(|it| it.kind.is_object() && usize::from(it.index) == idx)
            .map(|it| it.kind);
        let is_right = match object {
            Object::PathGiven => filling == Some(ParameterKind::Path),
            Object::AddressGiven => filling.is_none_or(|it| it == ParameterKind::Address),
            Object::Lent if program.writes_to(idx as u16) => {
                filling == Some(ParameterKind::Writable)
            }
            Object::Lent => {
                matches!(filling, Some(ParameterKind::Readable | ParameterKind::Writable))
            }
            _ => filling.is_none(),
        };
        if !is_right {
            return Err(PyValueError::new_err(format!(
                "object {idx} ({object:?}) is filled by no parameter, or by one of another kind \
                 ({filling:?})"
            )));
        }
    }
    Ok(())
}
