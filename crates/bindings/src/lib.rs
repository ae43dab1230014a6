//! `threadlets._core`: the one crate that knows both the core and Python.
//!
//! A method here parses its arguments, calls the core, which decides, and wraps the result. Work that is
//! not on the path of every request is left to the Python side (`python/threadlets/_aio`).

mod api;
mod callbacks;
mod calls;
mod contract;
mod dispatcher;
mod http;
mod net;
mod py;
mod scope;
mod syslet;
mod task;
mod tick;
mod workers;

/// The native half of threadlets.
///
/// It needs the GIL: all of its state is guarded by it.
#[pyo3::pymodule(gil_used = true)]
mod _core {
    #[pymodule_export]
    use super::callbacks::handles::{Handle, TimerHandle};
    #[pymodule_export]
    use super::calls::call_beside::CallBeside;
    #[pymodule_export]
    use super::calls::checkpoint::Checkpoint;
    #[pymodule_export]
    use super::calls::pool::Pool;
    #[pymodule_export]
    use super::calls::thread_function::{ThreadFunction, call_thread_function};
    #[pymodule_export]
    use super::contract::{Environment, Flags, fp_state};
    #[pymodule_export]
    use super::dispatcher::Dispatcher;
    #[pymodule_export]
    use super::dispatcher::hooks::hooks;
    #[pymodule_export]
    use super::http::counts::HttpCounts;
    #[pymodule_export]
    use super::http::server::HttpServer;
    #[pymodule_export]
    use super::http::wsgi::FileWrapper;
    #[pymodule_export]
    use super::net::datagrams::Datagrams;
    #[pymodule_export]
    use super::net::read_buffer::ReadBuffer;
    #[pymodule_export]
    use super::net::stream::Stream;
    #[pymodule_export]
    use super::py::address::{peername, sockname};
    #[pymodule_export]
    use super::scope::members::Members;
    #[pymodule_export]
    use super::scope::sleep::{Sleep, sleep};
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
    #[pymodule_export]
    use super::tick::request_handle::RequestHandle;
    #[pymodule_export]
    use super::workers::bound::{Stay, stay};
    #[pymodule_export]
    use super::workers::greenlets::GreenletTrace;
    #[pymodule_export]
    use super::workers::signals::take_passed;

    use pyo3::prelude::*;

    use super::task::slots;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::py::names::load(module.py())?;
        super::task::current::load(module.py())?;
        register_futures(module.py());
        super::py::entry_point::load(module.py())?;
        module.add("checkpoint", super::calls::checkpoint::Checkpoint)?;
        super::calls::call_type::export(module)
    }

    /// Register the classes of native futures.
    fn register_futures(py: Python<'_>) {
        slots::register::<Future>(py);
        slots::register::<Task>(py);
        #[cfg(Py_3_14)]
        {
            super::task::awaited_by::load(py);
            slots::register::<super::task::visible::VisibleTask>(py);
        }
        slots::register::<Sleep>(py);
        slots::register::<Pending>(py);
        slots::register::<CallBeside>(py);
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
