//! Syslets as Python sees them: programs, their arguments and results; runs awaited in a loop, swept over
//! many inputs, or collected in a completion ring.

pub(crate) mod argument;
pub(crate) mod channel;
pub(crate) mod completions;
pub(crate) mod engine;
pub(crate) mod lease;
pub(crate) mod outcome;
pub(crate) mod pending;
pub(crate) mod program;
pub(crate) mod result;
pub(crate) mod sweep;
