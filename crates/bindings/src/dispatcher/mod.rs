//! The dispatcher: its state, its queues, and how other threads wake it.

pub(crate) mod completion_queue;
pub(crate) mod descriptor_table;
mod fp_policy;
pub(crate) mod hooks;
pub(crate) mod outstanding;
pub(crate) mod replaced;
pub(crate) mod request;
mod state;
mod wake;
pub(crate) mod worker;
pub(crate) mod workers;

pub(crate) use state::{Dispatcher, Source};
