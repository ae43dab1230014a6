//! The dispatcher's role, and how it moves between threads.
//!
//! A function is called on the stack of its caller. If it blocks there, another *worker* takes the
//! dispatcher's role and runs ticks; when the function returns, its thread gets the role back. Stacks
//! stay on their threads: only the role moves.
//!
//! A take-over is the exception: a function that is known to block starts on another thread at once,
//! *beside* the dispatcher, and the role stays where it is.
//!
//! This module knows nothing of Python. It knows a *host lock* (the GIL): the role changes only with that
//! lock held, and a probe tells of any thread whether it holds the lock.
//!
//! Reading order: [`Role`] (the state that threads share, and the protocol on it), [`WorkerRegistry`]
//! (which workers are idle, and which wait for the role; guarded by the host lock), [`Beside`] (jobs for
//! threads that do not have the role), [`Bound`] (tasks that belong to a thread), [`Parker`] (how a thread
//! sleeps and is woken), [`WorkerSlot`] (what other threads see of a worker), [`Monitor`] (how a blocked
//! dispatcher is noticed).

mod beside;
mod bound;
#[cfg(not(feature = "model"))]
mod monitor;
mod parker;
mod registry;
mod role;
mod slot;
#[cfg(not(feature = "model"))]
mod thread;

pub use beside::{Beside, RECOUNT_NS, Summons};
pub use bound::Bound;
#[cfg(not(feature = "model"))]
pub use monitor::{Candidate, Cause, IdleMonitor, Monitor, Noticed, SLOW_NS};
pub use parker::{Parker, WakeReason};
pub use registry::{WorkerId, WorkerRegistry};
pub use role::{Awake, Boundary, Called, Monitoring, Role, Taken};
pub use slot::WorkerSlot;
#[cfg(not(feature = "model"))]
pub use thread::{HostProbe, ThreadTraits, ThreadUsage};
