//! The dispatcher's role, and how it moves between threads.
//!
//! A function is called inside the caller's stack. If it blocks, another *worker* takes the role of
//! dispatcher and runs ticks; when the function returns, its thread gets the role back. Nothing
//! migrates: the role follows the stack.
//!
//! It knows nothing of Python. It knows a *host lock* (the GIL), which whoever changes the role
//! holds, and can ask of any thread whether it holds that lock.
//!
//! That is the rescue. A function that is known to block starts on another thread at once, beside the
//! dispatcher, whose role stays where it is.
//!
//! Reading order: [`Role`] (the state that threads share, and the protocol on it), [`WorkerRegistry`]
//! (who waits for what; guarded by the host lock), [`Beside`] (work for threads that do not have the role),
//! [`Bound`] (tasks that belong to a thread), [`Parker`] (how a thread is woken), [`WorkerSlot`] (what can be seen of a worker's thread from outside),
//! [`Monitor`] (who notices a block).

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

pub use beside::{Beside, LOOK_NS, Summons};
pub use bound::Bound;
#[cfg(not(feature = "model"))]
pub use monitor::{Candidate, Cause, IdleMonitor, Monitor, Noticed, SLOW_NS};
pub use parker::{Parker, WakeReason};
pub use registry::{Attendance, Boundary, Taken, WorkerRegistry};
pub use role::{Awake, Called, Role, WorkerId};
pub use slot::WorkerSlot;
#[cfg(not(feature = "model"))]
pub use thread::{HostProbe, ThreadTraits, ThreadUsage};
