//! What the bindings need of Python and of the interpreter, beyond PyO3. Nothing here knows the dispatcher.

pub(crate) mod address;
#[cfg(Py_3_14)]
pub(crate) mod asyncio_state;
pub(crate) mod byte_buffer;
pub(crate) mod cast;
pub(crate) mod context;
pub(crate) mod ctypes_errno;
pub(crate) mod entry_point;
pub(crate) mod error;
pub(crate) mod gil_cell;
pub(crate) mod interpreter;
pub(crate) mod memory;
pub(crate) mod names;
