//! How runs and wishes reach an engine's thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::backend::Waker;
use crate::error::Result;
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

/// The messages that an engine's thread has not taken yet.
#[derive(Debug)]
pub(crate) struct Inbox {
    messages: Mutex<Vec<Message>>,
    n_messages: AtomicUsize,
    is_sleeping: AtomicBool,
    pub(crate) waker: Waker,
}

impl Inbox {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            messages: Mutex::new(Vec::new()),
            n_messages: AtomicUsize::new(0),
            is_sleeping: AtomicBool::new(false),
            waker: Waker::new()?,
        })
    }

    /// Send a message, and wake the thread if it sleeps.
    pub(crate) fn send(&self, message: Message) {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages.push(message);
        self.n_messages.store(messages.len(), Ordering::SeqCst);
        drop(messages);
        if self.is_sleeping.swap(false, Ordering::SeqCst) {
            self.waker.ring();
        }
    }

    pub(crate) fn take(&self) -> Vec<Message> {
        if self.n_messages.load(Ordering::SeqCst) == 0 {
            return Vec::new();
        }
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        self.n_messages.store(0, Ordering::SeqCst);
        std::mem::take(&mut *messages)
    }

    /// The thread is about to wait; whether there are messages after all.
    pub(crate) fn starts_sleeping(&self) -> bool {
        self.is_sleeping.store(true, Ordering::SeqCst);
        self.n_messages.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn stops_sleeping(&self) {
        self.is_sleeping.store(false, Ordering::SeqCst);
    }
}
