//! Letters between threads, under the model checker: queues as engines, loops and senders use
//! them.
//!
//! The checker sees to it that no item is read before it was written, forgotten, or waited for in
//! vain; the claims are about who has it in the end.

use std::cell::RefCell;
use std::rc::Rc;

use loom::alloc::Track;
use loom::cell::UnsafeCell;
use loom::thread::{self, JoinHandle};
use threadlets_core::mpsc_queue::MpscQueue;
use threadlets_core::takeover::{Parker, WakeReason};

use crate::world::check;

/// Who has sent it, and how many that one had sent before.
type Stamp = (usize, usize);

/// The last item that an engine's thread is to get.
const STOP: Stamp = (usize::MAX, 0);

/// What the checker watches over.
struct Item {
    stamp: Stamp,
    written: Track<UnsafeCell<()>>,
}

impl Item {
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

/// A queue, what its taker waits on, and what became of items.
struct Post {
    items: Rc<MpscQueue<Item>>,
    parker: Parker,
    /// What senders have had back.
    refused: RefCell<Vec<Stamp>>,
    senders: RefCell<Vec<JoinHandle<()>>>,
}

impl Drop for Post {
    fn drop(&mut self) {
        // The checker has failed, and what needs it cannot be dropped.
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
        self.items.push(Item::write(stamp)).unwrap_or_else(|item| {
            self.refused.borrow_mut().push(item.read());
            false
        })
    }

    /// One item, as to an engine: `Inbox::send`.
    fn send(&self, stamp: Stamp) {
        if self.put(stamp) {
            self.parker.unpark(WakeReason::WAKE);
        }
    }

    /// Several, as to a loop: `CompletionQueue::post`.
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
        taken.extend(self.items.take().into_iter().map(Item::read));
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

    /// Everybody has sent what he had: so many items each, each of which was taken or refused, in
    /// the order of sending. How many were refused.
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

/// So many threads send to one that sleeps when there is nothing, in a way of theirs.
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

/// Letters to an engine's thread are taken once and in order, and it sleeps through none.
#[test]
fn letters_wake_who_sleeps_and_are_taken_once() {
    send_to_one([2, 0], None, one_by_one, Post::wait);
    send_to_one([2, 2], 3, one_by_one, Post::wait);
}

/// A loop is woken once for items that come together, when the last one is there.
#[test]
fn letters_that_come_together_wake_once_and_are_taken_once() {
    send_to_one([2, 0], None, together, Post::wait);
    send_to_one([2, 2], 3, together, Post::wait);
}

/// The model can fail: who says that he waits, and does not look again, sleeps through a item.
#[test]
#[should_panic(expected = "deadlock")]
fn waiting_without_a_last_look_loses_a_letter() {
    send_to_one([1, 0], None, one_by_one, |post: &Post| {
        post.items.starts_waiting();
        post.parker.park(WakeReason::WAKE, None);
        post.items.stops_waiting();
    });
}

/// An engine's thread gets items, and one that says that it is to stop.
fn stop_while_letters_come(n_sent: usize, n_preemptions_max: impl Into<Option<usize>>) {
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
fn what_comes_while_a_thread_stops_is_taken_or_refused() {
    stop_while_letters_come(1, 4);
    stop_while_letters_come(2, 3);
}

/// A thread that fails, or a loop that closes, takes what is there, and everything later is refused.
#[test]
fn what_comes_while_the_letterbox_is_closed_is_taken_or_refused() {
    check(None, || {
        let post = Post::new();
        for (sender, n_sent) in [2, 1].into_iter().enumerate() {
            post.spawn(move |post| (0..n_sent).for_each(|number| _ = post.put((sender, number))));
        }
        let mut taken = Vec::new();
        post.take(&mut taken);
        taken.extend(post.items.close().into_iter().map(Item::read));
        post.account(&taken, &[2, 1]);
    });
}

/// Of two who take, each item is one's; what neither takes goes with the queue.
#[test]
fn two_who_take_at_once_share_letters_out() {
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
