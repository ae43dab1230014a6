//! Command queue: how runs and cancellations reach an engine's thread.

use super::backend::Waker;
use crate::error;
use crate::mpsc_queue::MpscQueue;
use crate::syslet::Run;

/// A command from another thread to an engine's thread.
#[derive(Debug)]
pub(crate) enum Command {
    /// Continue this run.
    Run(Box<Run>),
    /// Continue these runs.
    Runs(Vec<Box<Run>>),
    /// End the run with this identity, if it has not ended.
    Cancel(u64),
    /// End all runs of this group.
    CancelGroup(u64),
    /// End all runs, then the thread.
    Stop,
}

/// The commands that an engine's thread has not taken yet, and the thread's waker. The queue is closed
/// when the thread has ended.
#[derive(Debug)]
pub(crate) struct CommandQueue {
    pub(crate) queue: MpscQueue<Command>,
    pub(crate) waker: Waker,
}

impl CommandQueue {
    pub(crate) fn new() -> error::Result<Self> {
        Ok(Self { queue: MpscQueue::new(), waker: Waker::new()? })
    }

    /// Send a command, and wake the thread if it waits. The command comes back if the thread has ended.
    pub(crate) fn send(&self, command: Command) -> Result<(), Command> {
        if self.queue.push(command)? {
            self.waker.wake();
        }
        Ok(())
    }
}
