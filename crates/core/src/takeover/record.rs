//! What can be seen of a runner's thread from outside: its bell, and, while it lives, where to ask
//! what it does.

use super::bell::Bell;
#[cfg(not(feature = "model"))]
use super::thread::Traces;

/// One runner, as other threads see it. Records outlive their threads and are used again.
#[derive(Debug, Default)]
pub struct Record {
    /// Wakes the runner.
    pub bell: Bell,
    /// Where to look what its thread does; the model does not look.
    #[cfg(not(feature = "model"))]
    pub traces: Traces,
}

impl Record {
    /// In the child of a fork, which this runner has made or not.
    pub(super) fn reset(&self, is_here: bool) {
        self.bell.reset();
        #[cfg(not(feature = "model"))]
        self.traces.reset(is_here);
        #[cfg(feature = "model")]
        let _ = is_here;
    }
}
