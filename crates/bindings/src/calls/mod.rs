//! Calls of plain functions: inline, beside the dispatcher, or in a pool's queue.

pub(crate) mod beside;
pub(crate) mod call;
pub(crate) mod call_beside;
mod call_object;
pub(crate) mod call_type;
pub(crate) mod checkpoint;
mod job;
pub(crate) mod pool;
mod pool_methods;
pub(crate) mod queued_call;
pub(crate) mod starts;
pub(crate) mod thread_function;
