//! The native core of threadlets: the code that every request passes through.
//!
//! It knows nothing of Python. A request, a timer's value, and a source's owner are type
//! parameters here; the bindings crate fills them in with Python objects.
//!
//! Reading order: [`scheduler`] (ready queue → tick → timers), [`timers`], [`time_slice`], [`pools`],
//! [`scopes`], [`poller`] and [`sources`] (readiness), [`socket`] (a socket's operations, tried once),
//! [`connection`] and [`write_queue`] (a connected socket), [`descriptor`] (a descriptor that belongs to the
//! program), [`takeover`] (how the dispatcher's role moves between threads), [`mpsc_queue`] (how threads
//! reach each other), [`fp`] (a thread's floating-point state), [`errno`] (its last error), [`signals`]
//! (signal handlers while the host's table cannot be changed).

#![cfg_attr(feature = "model", allow(dead_code, reason = "a model runs a part of the core"))]

pub mod backlog;
pub mod buffers;
pub mod clock;
pub mod connection;
pub mod descriptor;
// The engine has queues in constants; the model checker's queues cannot be made in constants.
#[cfg(not(feature = "model"))]
pub mod engine;
pub mod errno;
pub mod error;
pub mod fp;
pub mod history;
pub mod mpsc_queue;
pub mod poller;
pub mod pools;
pub mod scheduler;
pub mod scopes;
pub mod signals;
pub mod socket;
pub mod sources;
mod sync;
pub mod syslet;
pub mod takeover;
pub mod time_slice;
pub mod timers;
pub mod write_queue;

pub use backlog::Backlog;
pub use connection::Connection;
pub use error::{Error, Result};
pub use history::{EntryPoint, Histories, History, Start, Totals};
pub use mpsc_queue::MpscQueue;
pub use poller::{Interest, Poller, Readiness};
pub use pools::{PoolKey, Pools, Priority};
pub use scheduler::Scheduler;
pub use scopes::{MemberKey, ScopeKey, Scopes};
pub use sources::{SourceKey, Sources};
pub use time_slice::TimeSlice;
pub use timers::{TimerKey, Timers};
pub use write_queue::WriteQueue;
