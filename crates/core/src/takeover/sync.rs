//! The atomics and the waiting of the take-over protocol: the machine's own, or those of the model
//! checker, which tries every interleaving.

#[cfg(not(feature = "model"))]
pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(feature = "model")]
pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
