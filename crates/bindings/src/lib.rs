//! `threadlets._core`: the one crate that knows both the core and Python.
//!
//! A method here parses its arguments, calls the core, which decides, and wraps the result. Work that is
//! not on the path of every request is left to the Python side (`python/threadlets/aio`).

mod accept;
mod address;
#[cfg(Py_3_14)]
mod asyncio_state;
mod beside;
mod bound;
mod byte_buffer;
mod call;
mod call_type;
mod callback;
mod checkpoint;
mod connection_context;
mod contract;
mod datagrams;
mod descriptors;
mod dispatcher;
mod entry_point;
mod error;
mod gil_cell;
mod greenlets;
mod internals;
mod interpreter;
mod memory;
mod pool;
mod queued_call;
mod request;
mod running;
mod scope;
mod shutdown;
mod signals;
mod sock_ops;
mod stream;
mod stream_state;
mod stream_view;
mod syslet;
mod task;
mod tick;
mod wake;
mod worker;
mod workers;

/// The native half of threadlets.
///
/// It needs the GIL: all of its state is guarded by it.
#[pyo3::pymodule(gil_used = true)]
mod _core {
    #[pymodule_export]
    use super::address::{peername, sockname};
    #[pymodule_export]
    use super::beside::CallBeside;
    #[pymodule_export]
    use super::bound::{Stay, stay};
    #[pymodule_export]
    use super::callback::{Handle, TimerHandle};
    #[pymodule_export]
    use super::checkpoint::Checkpoint;
    #[pymodule_export]
    use super::contract::{Environment, Flags, fp_state};
    #[pymodule_export]
    use super::datagrams::Datagrams;
    #[pymodule_export]
    use super::dispatcher::Dispatcher;
    #[pymodule_export]
    use super::greenlets::GreenletTrace;
    #[pymodule_export]
    use super::internals::RequestHandle;
    #[pymodule_export]
    use super::pool::Pool;
    #[pymodule_export]
    use super::scope::members::Members;
    #[pymodule_export]
    use super::scope::sleep::{Sleep, sleep};
    #[pymodule_export]
    use super::signals::take_passed;
    #[pymodule_export]
    use super::stream::Stream;
    #[pymodule_export]
    use super::syslet::completions::Completions;
    #[pymodule_export]
    use super::syslet::engine::{
        PyBufferPool, engine_info, forget_engine, stop_engine, uring_features, use_engine,
    };
    #[pymodule_export]
    use super::syslet::lease::LeasedMemory;
    #[pymodule_export]
    use super::syslet::pending::{EndedRun, Pending};
    #[pymodule_export]
    use super::syslet::program::SysletProgram;
    #[pymodule_export]
    use super::syslet::result::SysletResult;
    #[pymodule_export]
    use super::syslet::sweep::Sweep;
    #[cfg(Py_3_14)]
    #[pymodule_export]
    use super::task::awaited_by::{future_add_to_awaited_by, future_discard_from_awaited_by};
    #[pymodule_export]
    use super::task::current::current_task;
    #[pymodule_export]
    use super::task::future::Future;
    #[pymodule_export]
    use super::task::task::Task;

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::task::names::load(module.py())?;
        super::task::current::load(module.py())?;
        super::task::slots::fill(module.py());
        super::entry_point::load(module.py())?;
        module.add("checkpoint", super::checkpoint::Checkpoint)?;
        super::call_type::export(module)
    }

    /// The version of the native core; the package refuses to run with another.
    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    /// How the native core was built, for reports: profile, target, compiler, assertions.
    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __build__: &str = if cfg!(debug_assertions) {
        concat!(env!("THREADLETS_BUILD"), ", with assertions")
    } else {
        concat!(env!("THREADLETS_BUILD"), ", without assertions")
    };
}
