//! How runs that have ended come back to a loop: engines drop them here, the dispatcher takes them
//! at its next turn.
//!
//! Engines' threads hold no GIL: one of them may be in the middle of this when another thread forks.
//! So nothing is locked here.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use threadlets_core::letterbox::Letterbox;
use threadlets_core::syslet::{Outlet, Run};
use threadlets_core::takeover::{Bell, Ring};
use threadlets_core::{Poller, clock};

/// What a loop is told by a thread without the GIL.
#[derive(Debug)]
pub(crate) enum Letter {
    /// A run has ended; its token says which.
    Ended(Box<Run>),
    /// A channel has something, for the one that waits with this token.
    Notified(u64),
}

/// The letters of one loop.
pub(crate) struct Mailbox {
    letters: Letterbox<Letter>,
    poller: Current,
    /// How many runs will come here that have not.
    n_under_way: AtomicUsize,
    /// Rings when that was the last one.
    quiet: Bell,
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

impl Mailbox {
    pub(crate) fn new(poller: Arc<Poller>) -> Self {
        Self {
            letters: Letterbox::new(),
            poller: Current::new(&poller),
            n_under_way: AtomicUsize::new(0),
            quiet: Bell::default(),
        }
    }

    /// The outlet of one run more.
    pub(crate) fn outlet(self: &Arc<Self>) -> Arc<dyn Outlet> {
        self.n_under_way.fetch_add(1, SeqCst);
        Arc::clone(self) as Arc<dyn Outlet>
    }

    /// A run that was given the outlet will not come.
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
            self.quiet.wait(Ring::WAKE, Some(Duration::from_nanos(left_ns)));
        }
    }

    /// In the child of a fork: from now on letters wake this poller. The GIL is held, so that nobody
    /// else says so meanwhile.
    pub(crate) fn wake_by(&self, poller: &Arc<Poller>) {
        // The runs that are under way are the parent's.
        self.n_under_way.store(0, SeqCst);
        let known = self.poller.last().successor.set(Box::new(Current::new(poller)));
        assert!(known.is_ok(), "the last one has no successor");
    }

    /// The dispatcher is about to wait; whether there are letters already.
    pub(crate) fn starts_waiting(&self) -> bool {
        self.letters.starts_waiting()
    }

    pub(crate) fn stops_waiting(&self) {
        self.letters.stops_waiting();
    }

    /// Take all letters.
    pub(crate) fn take(&self) -> Vec<Letter> {
        self.letters.take()
    }

    /// The loop is closed: take the last letters, those that come later are thrown away.
    pub(crate) fn close(&self) -> Vec<Letter> {
        self.letters.close()
    }

    /// Tell the one that waits with this token.
    pub(crate) fn notify(&self, token: u64) {
        self.post(std::iter::once(Letter::Notified(token)));
    }

    fn post(&self, new: impl Iterator<Item = Letter>) {
        let mut wakes = false;
        for letter in new {
            // What a closed loop gives back is dropped here.
            wakes |= matches!(self.letters.put(letter), Ok(true));
        }
        if wakes && let Some(poller) = self.poller.last().poller.upgrade() {
            // It fails only when the counter of rings is full, and then the poller wakes anyway.
            let _ = poller.wake();
        }
    }
}

impl Outlet for Mailbox {
    fn deliver(&self, runs: &mut Vec<Box<Run>>) {
        let n_runs = runs.len();
        self.post(runs.drain(..).map(Letter::Ended));
        if self.n_under_way.fetch_sub(n_runs, SeqCst) == n_runs {
            self.quiet.ring(Ring::WAKE);
        }
    }
}
