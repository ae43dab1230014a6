//! How runs and wishes reach an engine's thread.

use super::backend::Waker;
use crate::error;
use crate::mpsc_queue::MpscQueue;
use crate::syslet::Run;

/// What other threads ask of an engine's thread.
#[derive(Debug)]
pub(crate) enum Command {
    /// Carry this run on.
    Run(Box<Run>),
    /// Carry these on.
    Runs(Vec<Box<Run>>),
    /// End the run with this identity, if it has not ended.
    Cancel(u64),
    /// End all runs of this group.
    CancelGroup(u64),
    /// End all runs, then yourself.
    Stop,
}

/// The messages that an engine's thread has not taken yet, and how it is woken. Closed, once it has
/// ended.
#[derive(Debug)]
pub(crate) struct CommandQueue {
    pub(crate) queue: MpscQueue<Command>,
    pub(crate) waker: Waker,
}

impl CommandQueue {
    pub(crate) fn new() -> error::Result<Self> {
        Ok(Self { queue: MpscQueue::new(), waker: Waker::new()? })
    }

    /// Send a message, and wake the thread if it sleeps; the message comes back if it has ended.
    pub(crate) fn send(&self, message: Command) -> Result<(), Command> {
        if self.queue.push(message)? {
            self.waker.wake();
        }
        Ok(())
    }
}
