//! How runs that have ended come back to a loop: engines drop them here, the dispatcher takes them
//! at its next turn.
//!
//! Engines' threads hold no GIL: one of them may be in the middle of this when another thread forks.
//! So nothing is locked here.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use threadlets_core::mpsc_queue::MpscQueue;
use threadlets_core::syslet::{CompletionSink, Run};
use threadlets_core::takeover::{Parker, WakeReason};
use threadlets_core::{Poller, clock};

/// What a loop is told by a thread without the GIL.
#[derive(Debug)]
pub(crate) enum Message {
    /// A run has ended; its token says which.
    Ended(Box<Run>),
    /// A channel has something, for the one that waits with this token.
    Notified(u64),
}

/// The messages of one loop.
pub(crate) struct CompletionQueue {
    messages: MpscQueue<Message>,
    poller: Current,
    /// How many runs will come here that have not.
    n_under_way: AtomicUsize,
    /// Rings when that was the last one.
    quiet: Parker,
}

/// A loop's poller, as long as the loop has it; then the one that a child of a fork has instead.
struct Current {
    poller: Weak<Poller>,
    successor: OnceLock<Box<Self>>,
}

impl Current {
    fn new(poller: &Arc<Poller>) -> Self {
        Self { poller: Arc::downgrade(poller), successor: OnceLock::new() }
    }

    /// The one that counts.
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

    /// The sink of one run more.
    pub(crate) fn sink(self: &Arc<Self>) -> Arc<dyn CompletionSink> {
        self.n_under_way.fetch_add(1, SeqCst);
        Arc::clone(self) as Arc<dyn CompletionSink>
    }

    /// A run that was given the sink will not come.
    pub(crate) fn forget_one(&self) {
        self.n_under_way.fetch_sub(1, SeqCst);
    }

    /// Wait, within reason, until every run has come.
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

    /// In the child of a fork: from now on messages wake this poller. The GIL is held, so that nobody
    /// else says so meanwhile.
    pub(crate) fn wake_by(&self, poller: &Arc<Poller>) {
        // The runs that are under way are the parent's.
        self.n_under_way.store(0, SeqCst);
        let known = self.poller.last().successor.set(Box::new(Current::new(poller)));
        assert!(known.is_ok(), "the last one has no successor");
    }

    /// The dispatcher is about to wait; whether there are messages already.
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

    /// The loop is closed: take the last messages, those that come later are thrown away.
    pub(crate) fn close(&self) -> Vec<Message> {
        self.messages.close()
    }

    /// Tell the one that waits with this token.
    pub(crate) fn notify(&self, token: u64) {
        self.post(std::iter::once(Message::Notified(token)));
    }

    fn post(&self, new: impl Iterator<Item = Message>) {
        let mut wakes = false;
        for message in new {
            // What a closed loop gives back is dropped here.
            wakes |= matches!(self.messages.push(message), Ok(true));
        }
        if wakes && let Some(poller) = self.poller.last().poller.upgrade() {
            // It fails only when the counter of rings is full, and then the poller wakes anyway.
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
