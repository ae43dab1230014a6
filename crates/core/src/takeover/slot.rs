//! What can be seen of a worker's thread from outside: its parker, and, while it lives, where to ask
//! what it does.

use super::parker::Parker;
#[cfg(not(feature = "model"))]
use super::thread::Traces;

/// One worker, as other threads see it. Records outlive their threads and are used again.
#[derive(Debug, Default)]
pub struct WorkerSlot {
    /// Wakes the worker.
    pub parker: Parker,
    /// Where to look what its thread does; the model does not look.
    #[cfg(not(feature = "model"))]
    pub traces: Traces,
}

impl WorkerSlot {
    /// In the child of a fork, which this worker has made or not.
    pub(super) fn reset(&self, is_here: bool) {
        self.parker.reset();
        #[cfg(not(feature = "model"))]
        self.traces.reset(is_here);
        #[cfg(feature = "model")]
        let _ = is_here;
    }
}
