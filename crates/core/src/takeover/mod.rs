//! The dispatcher's role, and how it moves between threads.
//!
//! A function is called inside the caller's stack. If it blocks, another *runner* takes the role of
//! dispatcher and runs bursts; when the function returns, its thread gets the role back. Nothing
//! migrates: the role follows the stack.
//!
//! It knows nothing of Python. It knows a *host lock* (the GIL), which whoever changes the role
//! holds, and can ask of any thread whether it holds that lock.
//!
//! That is the rescue. A function that is known to block starts on another thread at once, beside the
//! dispatcher, whose role stays where it is.
//!
//! Reading order: [`Role`] (the state that threads share, and the protocol on it), [`Roster`]
//! (who waits for what; guarded by the host lock), [`Beside`] (work for threads that do not have the role),
//! [`Bound`] (tasks that belong to a thread), [`Bell`] (how a thread is woken), [`Record`] (what can be seen of a runner's thread from outside),
//! [`Watcher`] (who notices a block).

mod bell;
mod beside;
mod bound;
mod record;
mod role;
mod roster;
#[cfg(not(feature = "model"))]
mod thread;
#[cfg(not(feature = "model"))]
mod watcher;

pub use bell::{Bell, Ring};
pub use beside::{Beside, LOOK_NS, Summons};
pub use bound::Bound;
pub use record::Record;
pub use role::{Called, Role, RunnerId, Watching};
pub use roster::{Attendance, Boundary, Roster, Taken};
#[cfg(not(feature = "model"))]
pub use thread::{HostProbe, ThreadTraits, Usage};
#[cfg(not(feature = "model"))]
pub use watcher::{Candidate, Cause, SLOW_NS, Sentinel, Watched, Watcher};
