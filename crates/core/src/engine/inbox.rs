//! How runs and wishes reach an engine's thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::backend::Waker;
use crate::error;
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
    /// `None`: the thread has ended.
    messages: Mutex<Option<Vec<Message>>>,
    n_messages: AtomicUsize,
    is_sleeping: AtomicBool,
    pub(crate) waker: Waker,
}

impl Inbox {
    pub(crate) fn new() -> error::Result<Self> {
        Ok(Self {
            messages: Mutex::new(Some(Vec::new())),
            n_messages: AtomicUsize::new(0),
            is_sleeping: AtomicBool::new(false),
            waker: Waker::new()?,
        })
    }

    /// Send a message, and wake the thread if it sleeps; the message comes back if it has ended.
    pub(crate) fn send(&self, message: Message) -> Result<(), Message> {
        let mut guard = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(messages) = &mut *guard else { return Err(message) };
        messages.push(message);
        self.n_messages.store(messages.len(), Ordering::SeqCst);
        drop(guard);
        if self.is_sleeping.swap(false, Ordering::SeqCst) {
            self.waker.ring();
        }
        Ok(())
    }

    /// Take no more messages, unless there are some.
    pub(crate) fn close(&self) -> bool {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let is_empty = messages.as_ref().is_none_or(Vec::is_empty);
        if is_empty {
            *messages = None;
        }
        is_empty
    }

    pub(crate) fn take(&self) -> Vec<Message> {
        if self.n_messages.load(Ordering::SeqCst) == 0 {
            return Vec::new();
        }
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        self.n_messages.store(0, Ordering::SeqCst);
        messages.as_mut().map(std::mem::take).unwrap_or_default()
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
