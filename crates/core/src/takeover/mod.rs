//! The dispatcher's role, and how it moves between threads.
//!
//! A function is called inside the caller's stack. If it blocks, another *runner* takes the role of
//! dispatcher and runs bursts; when the function returns, its thread gets the role back. Nothing
//! migrates: the role follows the stack.
//!
//! It knows nothing of Python. It knows a *host lock* (the GIL), which whoever changes the role
//! holds, and can ask of any thread whether it holds that lock.
//!
//! Reading order: [`Role`] (the state that threads share, and the protocol on it), [`Roster`]
//! (who waits for what; guarded by the host lock), [`Bell`] (how a thread is woken), [`Record`]
//! (what can be seen of a runner's thread from outside), [`Watcher`] (who notices a block).

mod bell;
mod record;
mod role;
mod roster;
#[cfg(not(feature = "model"))]
mod thread;
#[cfg(not(feature = "model"))]
mod watcher;

pub use bell::{Bell, Ring};
pub use record::Record;
pub use role::{Called, Role, RunnerId, Watching};
pub use roster::{Attendance, Boundary, Roster, Taken};
#[cfg(not(feature = "model"))]
pub use thread::{HostProbe, ThreadTraits};
#[cfg(not(feature = "model"))]
pub use watcher::{Candidate, Cause, Sentinel, Watcher};
