//! Callbacks that are queued, and their handles.

pub(crate) mod handles;
pub(crate) mod running;
pub(crate) mod scheduling;
