//! How runs and wishes reach an engine's thread.

use super::backend::Waker;
use crate::error;
use crate::letterbox::Letterbox;
use crate::syslet::Run;

/// What other threads ask of an engine's thread.
#[derive(Debug)]
pub(crate) enum Message {
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
pub(crate) struct Inbox {
    pub(crate) messages: Letterbox<Message>,
    pub(crate) waker: Waker,
}

impl Inbox {
    pub(crate) fn new() -> error::Result<Self> {
        Ok(Self { messages: Letterbox::new(), waker: Waker::new()? })
    }

    /// Send a message, and wake the thread if it sleeps; the message comes back if it has ended.
    pub(crate) fn send(&self, message: Message) -> Result<(), Message> {
        if self.messages.put(message)? {
            self.waker.ring();
        }
        Ok(())
    }
}
