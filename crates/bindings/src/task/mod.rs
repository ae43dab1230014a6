//! Native futures and tasks: they promise what asyncio's own do, and are resumed directly from the tick.

pub(crate) mod any_future;
mod arguments;
#[cfg(Py_3_14)]
pub(crate) mod awaited_by;
pub(crate) mod callback;
pub(crate) mod current;
#[cfg(not(Py_3_14))]
mod current_by_loop;
#[cfg(Py_3_14)]
mod current_by_thread;
pub(crate) mod future;
mod iter;
pub(crate) mod making;
mod showing;
pub(crate) mod slots;
mod state;
pub(crate) mod step;
#[expect(clippy::module_inception, reason = "the folder is named after its main noun")]
pub(crate) mod task;
#[cfg(Py_3_14)]
pub(crate) mod visible;
pub(crate) mod waiters;
