//! What other threads see of a worker: its parker, and, while its thread lives, where to look what the
//! thread does.

use super::parker::Parker;
#[cfg(not(feature = "model"))]
use super::thread::Traces;

/// A worker as other threads see it. A slot outlives its thread and is used again for another one.
#[derive(Debug, Default)]
pub struct WorkerSlot {
    /// Wakes the worker.
    pub parker: Parker,
    /// Where to look what the worker's thread does; the model does not look.
    #[cfg(not(feature = "model"))]
    pub traces: Traces,
}

impl WorkerSlot {
    /// Reset the slot in the child of a fork; `is_here`: this worker's thread is the one that forked.
    pub(super) fn reset(&self, is_here: bool) {
        self.parker.reset();
        #[cfg(not(feature = "model"))]
        self.traces.reset(is_here);
        #[cfg(feature = "model")]
        let _ = is_here;
    }
}
