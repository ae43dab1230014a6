//! The process's engine and its pool of buffers, each made when it is first needed.

use std::ffi::OsString;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyOSError, PyOverflowError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use threadlets_core::buffers::BufferPool;
use threadlets_core::engine::{self, Engine, EngineKind, Simulation};
use threadlets_core::syslet::Run;

use super::channel;
use crate::py::error::wrong_type;

/// The most that the default pool lends at a time, in bytes.
const MEMORY_MAX_BYTES: usize = 1024 * 1024 * 1024;

struct DefaultEngine {
    engine: Option<Arc<Engine>>,
    /// Why this engine was chosen, if it is not the default.
    note: Option<String>,
    pool: Option<Arc<BufferPool>>,
}

static SHARED: Mutex<DefaultEngine> =
    Mutex::new(DefaultEngine { engine: None, note: None, pool: None });

fn shared<R>(use_it: impl FnOnce(&mut DefaultEngine) -> R) -> R {
    use_it(&mut SHARED.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The process's engine.
pub(crate) fn current() -> PyResult<Arc<Engine>> {
    shared(|shared| {
        if let Some(engine) = &shared.engine {
            return Ok(Arc::clone(engine));
        }
        let (kind, note) = kind_for_process()?;
        let engine = Arc::new(Engine::new(kind, n_threads()));
        shared.note = note;
        shared.engine = Some(Arc::clone(&engine));
        Ok(engine)
    })
}

/// The pool of buffers that programs borrow from unless they are given another.
pub(crate) fn default_pool() -> Arc<BufferPool> {
    shared(|shared| {
        let pool = shared.pool.get_or_insert_with(|| Arc::new(BufferPool::new(MEMORY_MAX_BYTES)));
        Arc::clone(pool)
    })
}

fn n_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// The engine that the environment asks for, or the best that works here.
///
/// The environment is read before io_uring is tried: a seccomp filter may kill a process that tries it.
fn kind_for_process() -> PyResult<(EngineKind, Option<String>)> {
    let wanted = std::env::var_os("THREADLETS_ENGINE");
    match wanted.as_ref().and_then(|it| it.to_str()) {
        Some("workers") => {
            Ok((EngineKind::Workers, Some("THREADLETS_ENGINE asks for it".to_owned())))
        }
        Some("uring") => match engine::uring_refusal() {
            None => Ok((EngineKind::Uring, None)),
            Some(error) => Err(PyOSError::new_err((
                error.errno.raw_os_error(),
                format!("THREADLETS_ENGINE is uring, but {}", why_no_uring(error)),
            ))),
        },
        Some("") => Ok(kind_that_works()),
        None if wanted.is_none() => Ok(kind_that_works()),
        _ => Err(unknown_engine(&wanted.unwrap_or_default())),
    }
}

fn unknown_engine(name: &OsString) -> PyErr {
    PyValueError::new_err(format!(
        "THREADLETS_ENGINE is {name:?}; set it to uring or workers, or unset it to have the best \
         that works here"
    ))
}

fn kind_that_works() -> (EngineKind, Option<String>) {
    match engine::uring_refusal() {
        None => (EngineKind::Uring, None),
        Some(error) => (EngineKind::Workers, Some(why_no_uring(error))),
    }
}

fn why_no_uring(error: threadlets_core::Error) -> String {
    format!("io_uring cannot be used ({error}): {}", engine::uring_remedy(error))
}

/// Submit a run to an engine; returns its id for `Engine::cancel`, or the run itself if no thread takes it.
pub(crate) fn submit(engine: &Engine, run: Box<Run>) -> Result<u64, (PyErr, Box<Run>)> {
    engine.submit(run).map_err(|(error, run)| (no_thread(error), run))
}

/// Submit many runs to an engine; on an error, returns how many were not taken.
pub(crate) fn submit_many(engine: &Engine, runs: Vec<Box<Run>>) -> Result<(), (PyErr, usize)> {
    engine.submit_many(runs).map_err(|(error, left)| (no_thread(error), left.len()))
}

fn no_thread(error: threadlets_core::Error) -> PyErr {
    PyRuntimeError::new_err(format!(
        "the engine cannot carry the run on ({error}): it was stopped (use_engine() \
         has replaced it), or its thread could not start (ulimit -u, -n, -l)"
    ))
}

/// Return the engine's kind, how many threads it has, how many runs are in flight, and a note: why it is
/// not io_uring, if it is not, and whether threads of it have failed.
#[pyfunction]
pub(crate) fn engine_info() -> PyResult<(&'static str, usize, usize, Option<String>)> {
    let engine = current()?;
    let failures = match engine.n_failures() {
        0 => None,
        n => Some(format!("threads that failed and were replaced: {n} (see standard error)")),
    };
    let notes: Vec<_> = shared(|shared| shared.note.clone()).into_iter().chain(failures).collect();
    let note = (!notes.is_empty()).then(|| notes.join("; "));
    Ok((engine.kind().name(), engine.n_threads(), engine.n_in_flight(), note))
}

/// Return the features that rings are used with on this kernel, by the kernel's names.
#[pyfunction]
pub(crate) fn uring_features() -> Vec<&'static str> {
    engine::uring_features()
}

/// Stop the engine, and replace it by `uring`, `workers`, `sim`, or None for what the environment says.
/// Runs in flight end as cancelled.
#[pyfunction]
#[pyo3(signature = (kind, threads=None, seed=0, error_rate=0.0, short_rate=0.0))]
pub(crate) fn use_engine(
    py: Python<'_>,
    kind: Option<&str>,
    threads: Option<usize>,
    seed: u64,
    error_rate: f64,
    short_rate: f64,
) -> PyResult<()> {
    let engine_kind = match kind {
        None => None,
        Some("uring") => Some(EngineKind::Uring),
        Some("workers") => Some(EngineKind::Workers),
        Some("sim") => Some(EngineKind::Simulated(Simulation { seed, error_rate, short_rate })),
        Some(other) => {
            return Err(PyValueError::new_err(format!(
                "there is no engine '{other}'; use 'uring', 'workers' or 'sim'"
            )));
        }
    };
    if let Some(EngineKind::Uring) = engine_kind
        && let Some(error) = engine::uring_refusal()
    {
        let message = why_no_uring(error);
        return Err(PyOSError::new_err((error.errno.raw_os_error(), message)));
    }
    let threads = threads.unwrap_or_else(n_threads);
    if threads == 0 {
        return Err(PyValueError::new_err("an engine has at least one thread"));
    }
    stop_engine(py)?;
    if let Some(kind) = engine_kind {
        shared(|shared| {
            shared.note = Some("chosen by use_engine()".to_owned());
            shared.engine = Some(Arc::new(Engine::new(kind, threads)));
        });
    }
    Ok(())
}

/// Stop the engine: its runs end as cancelled, its threads end. The next use starts another.
#[pyfunction]
pub(crate) fn stop_engine(py: Python<'_>) -> PyResult<()> {
    // No signal ends the wait below.
    py.check_signals()?;
    if let Some(engine) = shared(|shared| shared.engine.take()) {
        py.detach(|| engine.stop());
    }
    Ok(())
}

/// In the child of a fork: forget the engine, whose threads are the parent's. The runs that they had, and
/// the locks that they held, are left alone for good.
#[pyfunction]
pub(crate) fn forget_engine() {
    channel::disown();
    // No thread that is missing here can hold the lock of `SHARED`: a thread that locks it holds the GIL,
    // and so does a thread that forks.
    let (engine, pool) = shared(|shared| (shared.engine.take(), shared.pool.take()));
    if let Some(engine) = &engine {
        engine.abandon();
    }
    std::mem::forget((engine, pool));
}

/// A bounded pool of memory for buffers.
///
/// Programs that are given this pool borrow their buffers from it, up to `memory_max` bytes at a time;
/// beyond that an atom that needs a buffer fails with `ENOBUFS`.
#[pyclass(frozen, module = "threadlets", name = "BufferPool")]
pub(crate) struct PyBufferPool(pub(crate) Arc<BufferPool>);

#[pymethods]
impl PyBufferPool {
    #[new]
    fn new(memory_max: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = memory_max.py();
        let memory_max: usize = memory_max.extract().map_err(|error: PyErr| {
            if error.is_instance_of::<PyOverflowError>(py) {
                return PyValueError::new_err(format!(
                    "memory_max is {memory_max}; it is a number of bytes, 1 or more, in a machine word"
                ));
            }
            wrong_type("memory_max", memory_max, "the most that is lent, in bytes: pass an int")
        })?;
        if memory_max == 0 {
            return Err(PyValueError::new_err(
                "memory_max is 0; such a pool could lend nothing: pass 1 or more",
            ));
        }
        Ok(Self(Arc::new(BufferPool::new(memory_max))))
    }

    /// The pool that programs borrow from unless they are given another.
    #[staticmethod]
    fn default() -> Self {
        Self(default_pool())
    }

    /// The most that is lent at a time, in bytes.
    #[getter]
    fn memory_max(&self) -> usize {
        self.0.memory_max_bytes()
    }

    /// How much is lent now, in bytes.
    #[getter]
    fn in_use(&self) -> usize {
        self.0.in_use_bytes()
    }

    /// How much is kept for the next lease, in bytes.
    #[getter]
    fn kept(&self) -> usize {
        self.0.kept_bytes()
    }
}
