//! Syslets: programs of I/O atoms, and the runs that execute them.
//!
//! Reading order: [`op`] (the operations of atoms), [`program`] (atoms in a table, and the rules of the
//! flow), [`memory`] (what atoms read and write), [`run`] (one execution: which calls it makes, and
//! where it goes with their values; `prepare` and `effects` have the details), [`inline`] (executes a run
//! on the calling thread until it would block). `fd` knows descriptors, `readiness` what a call that would
//! block waits for, `syscall` makes calls; none of the three knows runs. Runs that would block are for the [engine](crate::engine).

mod call;
mod effects;
pub(crate) mod fd;
pub mod inline;
pub mod memory;
pub mod op;
mod prepare;
pub mod program;
pub(crate) mod readiness;
pub mod run;
pub(crate) mod syscall;

pub use call::Call;
pub use inline::Stopped;
pub use memory::{Lent, Memory, SocketAddress};
pub use op::{Op, Operand};
pub use program::{Atom, AtomFlags, MalformedProgram, Object, Program, ResultSpec, Span};
pub use run::{CompletionSink, End, Flow, Run};
