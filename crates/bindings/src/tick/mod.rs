//! The tick, which polls and runs requests of every kind, and the threads that run it.

pub(crate) mod by_hand;
pub(crate) mod closing;
pub(crate) mod dispatch;
mod poll;
pub(crate) mod request_handle;
mod running;
pub(crate) mod worker_thread;
