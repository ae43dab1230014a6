//! The completion queue of a loop: engines put ended runs in, the dispatcher takes them at its next tick.
//!
//! Engines' threads hold no GIL: one of them may be in the middle of a push when another thread forks. So
//! there is no lock here.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use threadlets_core::mpsc_queue::MpscQueue;
use threadlets_core::syslet::{CompletionSink, Run};
use threadlets_core::takeover::{Parker, WakeReason};
use threadlets_core::{Poller, clock};

/// A message to a loop from a thread without the GIL.
#[derive(Debug)]
pub(crate) enum Message {
    /// A run has ended; its token says which.
    Ended(Box<Run>),
    /// A channel has enough runs for the future with this token.
    Notified(u64),
}

/// The messages of one loop.
pub(crate) struct CompletionQueue {
    messages: MpscQueue<Message>,
    poller: Current,
    /// How many runs are still to come here.
    n_under_way: AtomicUsize,
    /// Unparked when the last of them has come.
    quiet: Parker,
}

/// A loop's poller, as long as the loop has it; its successor is the poller in the child of a fork.
struct Current {
    poller: Weak<Poller>,
    successor: OnceLock<Box<Self>>,
}

impl Current {
    fn new(poller: &Arc<Poller>) -> Self {
        Self { poller: Arc::downgrade(poller), successor: OnceLock::new() }
    }

    /// The latest successor.
    fn last(&self) -> &Self {
        self.successor.get().map_or(self, |it| it.last())
    }
}

impl CompletionQueue {
    pub(crate) fn new(poller: Arc<Poller>) -> Self {
        Self {
            messages: MpscQueue::new(),
            poller: Current::new(&poller),
            n_under_way: AtomicUsize::new(0),
            quiet: Parker::default(),
        }
    }

    /// The completion sink of one more run.
    pub(crate) fn sink(self: &Arc<Self>) -> Arc<dyn CompletionSink> {
        self.n_under_way.fetch_add(1, SeqCst);
        Arc::clone(self) as Arc<dyn CompletionSink>
    }

    /// Do not expect one run that was given the sink.
    pub(crate) fn forget_one(&self) {
        self.n_under_way.fetch_sub(1, SeqCst);
    }

    /// Wait until every run has come, for `patience` at most.
    pub(crate) fn wait_until_quiet(&self, patience: Duration) {
        let deadline_ns = clock::now_ns() + patience.as_nanos() as u64;
        while self.n_under_way.load(SeqCst) > 0 {
            let left_ns = deadline_ns.saturating_sub(clock::now_ns());
            if left_ns == 0 {
                return;
            }
            self.quiet.park(WakeReason::WAKE, Some(Duration::from_nanos(left_ns)));
        }
    }

    /// In the child of a fork: have messages wake this poller from now on. The caller holds the GIL, so
    /// that no other thread does so meanwhile.
    pub(crate) fn wake_by(&self, poller: &Arc<Poller>) {
        // The runs that are under way are the parent's.
        self.n_under_way.store(0, SeqCst);
        let known = self.poller.last().successor.set(Box::new(Current::new(poller)));
        assert!(known.is_ok(), "the last one has no successor");
    }

    /// Note that the dispatcher is about to wait; whether there are messages already.
    pub(crate) fn starts_waiting(&self) -> bool {
        self.messages.starts_waiting()
    }

    pub(crate) fn stops_waiting(&self) {
        self.messages.stops_waiting();
    }

    /// Take all messages.
    pub(crate) fn take(&self) -> Vec<Message> {
        self.messages.take()
    }

    /// Take the last messages, when the loop is closed; those that come later are dropped.
    pub(crate) fn close(&self) -> Vec<Message> {
        self.messages.close()
    }

    /// Notify the future with this token.
    pub(crate) fn notify(&self, token: u64) {
        self.post(std::iter::once(Message::Notified(token)));
    }

    fn post(&self, new: impl Iterator<Item = Message>) {
        let mut wakes = false;
        for message in new {
            // What a closed queue gives back is dropped here.
            wakes |= matches!(self.messages.push(message), Ok(true));
        }
        if wakes && let Some(poller) = self.poller.last().poller.upgrade() {
            // It fails only when the counter of wake-ups is full, and then the poller wakes anyway.
            let _ = poller.wake();
        }
    }
}

impl CompletionSink for CompletionQueue {
    fn deliver(&self, runs: &mut Vec<Box<Run>>) {
        let n_runs = runs.len();
        self.post(runs.drain(..).map(Message::Ended));
        if self.n_under_way.fetch_sub(n_runs, SeqCst) == n_runs {
            self.quiet.unpark(WakeReason::WAKE);
        }
    }
}
