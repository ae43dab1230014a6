//! `threadlets._core`: the one crate that knows both the core and Python.
//!
//! A method here reads as parse, call, wrap; the core decides. Whatever is not on the path of
//! every request is left to the Python side (`python/threadlets/aio`).

mod accept;
mod address;
mod byte_buffer;
mod callback;
mod datagrams;
mod dispatcher;
mod error;
mod gil_cell;
mod request;
mod sock_ops;
mod stream;
mod watches;

/// The native half of threadlets.
///
/// It needs the GIL: all of its state is guarded by it.
#[pyo3::pymodule(gil_used = true)]
mod _core {
    #[pymodule_export]
    use super::address::sockname;
    #[pymodule_export]
    use super::callback::{Handle, TimerHandle};
    #[pymodule_export]
    use super::datagrams::Datagrams;
    #[pymodule_export]
    use super::dispatcher::Dispatcher;
    #[pymodule_export]
    use super::stream::Stream;

    /// The version of the native core; the package refuses to run with another.
    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
