//! Queues between threads, under the model checker, as engines, loops and senders use them.
//!
//! The checker makes sure that no item is read before it was written, leaked, or waited for in vain; the
//! assertions are about which thread has it in the end.

use std::cell::RefCell;
use std::rc::Rc;

use loom::alloc::Track;
use loom::cell::UnsafeCell;
use loom::thread::{self, JoinHandle};
use threadlets_core::mpsc_queue::MpscQueue;
use threadlets_core::takeover::{Parker, WakeReason};

use crate::world::check;

/// The sender of an item, and how many it had sent before.
type Stamp = (usize, usize);

/// The last item that an engine's thread is to get.
const STOP: Stamp = (usize::MAX, 0);

/// An item; the checker tracks its accesses and its end.
struct TrackedItem {
    stamp: Stamp,
    written: Track<UnsafeCell<()>>,
}

impl TrackedItem {
    fn write(stamp: Stamp) -> Self {
        let written = UnsafeCell::new(());
        written.with_mut(|_| ());
        Self { stamp, written: Track::new(written) }
    }

    fn read(self) -> Stamp {
        self.written.get_ref().with_mut(|_| ());
        self.stamp
    }
}

/// A queue, with its taker's parker and the items that were refused.
struct Post {
    items: Rc<MpscQueue<TrackedItem>>,
    parker: Parker,
    /// Items that came back to their senders.
    refused: RefCell<Vec<Stamp>>,
    senders: RefCell<Vec<JoinHandle<()>>>,
}

impl Drop for Post {
    fn drop(&mut self) {
        // The checker has failed, and items cannot be dropped without it.
        if std::thread::panicking() {
            std::mem::forget(Rc::clone(&self.items));
        }
    }
}

impl Post {
    fn new() -> Rc<Self> {
        let (items, parker) = (Rc::default(), Parker::default());
        Rc::new(Self { items, parker, refused: RefCell::default(), senders: RefCell::default() })
    }

    fn put(&self, stamp: Stamp) -> bool {
        self.items.push(TrackedItem::write(stamp)).unwrap_or_else(|item| {
            self.refused.borrow_mut().push(item.read());
            false
        })
    }

    /// Send one item, as to an engine: `CommandQueue::send`.
    fn send(&self, stamp: Stamp) {
        if self.put(stamp) {
            self.parker.unpark(WakeReason::WAKE);
        }
    }

    /// Send several items, as to a loop: `CompletionQueue::post`.
    fn send_together(&self, stamps: impl Iterator<Item = Stamp>) {
        let mut wakes = false;
        for stamp in stamps {
            wakes |= self.put(stamp);
        }
        if wakes {
            self.parker.unpark(WakeReason::WAKE);
        }
    }

    fn spawn(self: &Rc<Self>, work: impl FnOnce(&Self) + 'static) {
        let post = Rc::clone(self);
        self.senders.borrow_mut().push(thread::spawn(move || work(&post)));
    }

    fn take(&self, taken: &mut Vec<Stamp>) {
        taken.extend(self.items.take().into_iter().map(TrackedItem::read));
    }

    /// Wait for items, as an engine's thread does and a loop that keeps its role.
    fn wait(&self) {
        if self.items.starts_waiting() {
            self.parker.take(WakeReason::WAKE);
        } else {
            self.parker.park(WakeReason::WAKE, None);
        }
        self.items.stops_waiting();
    }

    /// Join the senders, and check that each of their `n_sent` items was taken or refused, in the order of
    /// sending; how many were refused.
    fn account(&self, taken: &[Stamp], n_sent: &[usize]) -> usize {
        self.senders.take().into_iter().for_each(|it| it.join().unwrap());
        let refused = self.refused.take();
        for (sender, &n_sent) in n_sent.iter().enumerate() {
            let both = taken.iter().chain(&refused).filter(|it| it.0 == sender);
            assert!(both.map(|it| it.1).eq(0..n_sent), "{taken:?} taken, {refused:?} refused");
        }
        refused.len()
    }
}

/// Threads send `n_each` items, each with `send`, to one that takes them and sleeps with `wait`.
fn send_to_one(
    n_each: [usize; 2],
    n_preemptions_max: impl Into<Option<usize>>,
    send: impl Fn(&Post, &mut dyn Iterator<Item = Stamp>) + Copy + Send + Sync + 'static,
    wait: impl Fn(&Post) + Send + Sync + 'static,
) {
    check(n_preemptions_max, move || {
        let post = Post::new();
        for (sender, &n_sent) in n_each.iter().enumerate().filter(|it| *it.1 > 0) {
            post.spawn(move |post| send(post, &mut (0..n_sent).map(|number| (sender, number))));
        }
        let mut taken = Vec::new();
        while taken.len() < n_each.iter().sum() {
            wait(&post);
            post.take(&mut taken);
        }
        assert_eq!(0, post.account(&taken, &n_each));
    });
}

fn one_by_one(post: &Post, stamps: &mut dyn Iterator<Item = Stamp>) {
    stamps.for_each(|it| post.send(it));
}

fn together(post: &Post, stamps: &mut dyn Iterator<Item = Stamp>) {
    post.send_together(stamps);
}

/// Items for an engine's thread are taken once and in order, and it sleeps through none.
#[test]
fn items_wake_a_sleeping_taker_and_are_taken_once() {
    send_to_one([2, 0], None, one_by_one, Post::wait);
    send_to_one([2, 2], 3, one_by_one, Post::wait);
}

/// A loop is woken once for items that come together, when the last one is there.
#[test]
fn items_that_come_together_wake_once_and_are_taken_once() {
    send_to_one([2, 0], None, together, Post::wait);
    send_to_one([2, 2], 3, together, Post::wait);
}

/// The model can fail: a taker that says that it waits, and does not look again, sleeps through an item.
#[test]
#[should_panic(expected = "deadlock")]
fn waiting_without_a_last_look_loses_an_item() {
    send_to_one([1, 0], None, one_by_one, |post: &Post| {
        post.items.starts_waiting();
        post.parker.park(WakeReason::WAKE, None);
        post.items.stops_waiting();
    });
}

/// An engine's thread gets `n_sent` items, and one that tells it to stop.
fn stop_while_items_come(n_sent: usize, n_preemptions_max: impl Into<Option<usize>>) {
    check(n_preemptions_max, move || {
        let post = Post::new();
        post.spawn(move |post| (0..n_sent).for_each(|number| post.send((0, number))));
        post.spawn(|post| post.send(STOP));
        let mut taken = Vec::new();
        loop {
            post.take(&mut taken);
            if taken.contains(&STOP) && post.items.close_if_empty() {
                break;
            }
            post.wait();
        }
        post.account(&taken, &[n_sent]);
        assert!(post.items.take().is_empty() && post.items.close().is_empty());
    });
}

/// An engine's thread that is to stop has taken every item that was not refused.
#[test]
fn items_that_come_while_a_thread_stops_are_taken_or_refused() {
    stop_while_items_come(1, 4);
    stop_while_items_come(2, 3);
}

/// A thread that fails, or a loop that closes, takes the items that are there; all later ones are refused.
#[test]
fn items_that_come_while_the_queue_is_closed_are_taken_or_refused() {
    check(None, || {
        let post = Post::new();
        for (sender, n_sent) in [2, 1].into_iter().enumerate() {
            post.spawn(move |post| (0..n_sent).for_each(|number| _ = post.put((sender, number))));
        }
        let mut taken = Vec::new();
        post.take(&mut taken);
        taken.extend(post.items.close().into_iter().map(TrackedItem::read));
        post.account(&taken, &[2, 1]);
    });
}

/// Of two threads that take at once, one gets each item; what neither takes is dropped with the queue.
#[test]
fn two_threads_that_take_at_once_share_the_items() {
    check(None, || {
        let post = Post::new();
        let others = Rc::new(RefCell::new(Vec::new()));
        let theirs = Rc::clone(&others);
        post.spawn(|post| (0..3).for_each(|number| _ = post.put((0, number))));
        post.spawn(move |post| post.take(&mut theirs.borrow_mut()));
        let mut taken = Vec::new();
        post.take(&mut taken);
        post.senders.take().into_iter().for_each(|it| it.join().unwrap());
        let others = others.take();
        assert!(taken.is_sorted() && others.is_sorted());
        taken.extend(others);
        taken.sort();
        assert!(taken.iter().map(|it| it.1).eq(0..taken.len()));
    });
}
