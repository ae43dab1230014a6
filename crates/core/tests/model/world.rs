//! A small model of what the bindings do around the take-over protocol: one loop, its workers, and a mutex
//! for the GIL. It knows nothing of what the tests claim about them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use loom::cell::UnsafeCell;
use loom::sync::{Condvar, Mutex, MutexGuard};
use loom::thread::{self, JoinHandle};
use threadlets_core::mpsc_queue::MpscQueue;
use threadlets_core::takeover::{
    Beside, Bound, Boundary, Called, Monitoring, Parker, Role, Taken, WakeReason, WorkerId,
    WorkerRegistry,
};

use crate::life::{Doing, Fault, Item, Job};

pub(crate) const HOME: WorkerId = WorkerId::HOME;
/// In place of a worker's index in `World::holder`: no thread holds the lock.
const NONE: usize = usize::MAX;

/// What the dispatcher runs.
pub(crate) type Request = Box<dyn FnOnce(&mut Held<'_>)>;

/// One loop with its workers. The checker runs its threads one at a time on one thread of the machine, so
/// plain cells suffice for what the GIL guards; the checker sees the mutex that stands for the GIL.
pub(crate) struct World {
    pub(crate) role: Role,
    pub(crate) lock: Mutex<WorkerRegistry>,
    /// Index of the worker that holds the lock, for `look`.
    holder: loom::sync::atomic::AtomicUsize,
    /// What the dispatcher sleeps on while it waits for events.
    pub(crate) poller: Parker,
    /// A thread waits for events.
    is_in_use: Mutex<bool>,
    changed: Condvar,
    /// Touched by the dispatcher alone, between two requests or outside of threadlets, without the
    /// lock: the checker reports two threads at once, and a hand-over that does not order them.
    dispatched: UnsafeCell<()>,
    pub(crate) ids: Vec<WorkerId>,
    pub(crate) requests: RefCell<VecDeque<Request>>,
    threads: RefCell<Vec<JoinHandle<()>>>,
    /// The worker that runs a request, outside of threadlets.
    pub(crate) working: Cell<Option<WorkerId>>,
    /// The worker that called a function last, unless that has returned: the record of the present call
    /// (`Workers::calling`) is this worker's.
    calling: Cell<Option<WorkerId>>,
    pub(crate) current_monitor: Cell<Option<WorkerId>>,
    /// How often each worker got the role back after a call.
    pub(crate) n_returned: RefCell<Vec<u32>>,
    pub(crate) is_sleeping: Cell<bool>,
    /// A thread without the lock is about to end this wait, or has ended it.
    is_being_woken: Cell<bool>,
    /// Items that engines, which do not hold the lock, have sent; only in some models.
    pub(crate) completions: RefCell<Option<Rc<MpscQueue<Item>>>>,
    pub(crate) beside: RefCell<Beside<Job>>,
    /// The thread that is to be called for a job when the dispatcher next releases the lock.
    pub(crate) called: Cell<Option<WorkerId>>,
    pub(crate) bound: RefCell<Bound<Request>>,
    /// Calls for which no thread was left.
    pub(crate) held_calls: RefCell<Vec<Request>>,
    /// What each thread does; idle ones are absent.
    pub(crate) doing: RefCell<BTreeMap<usize, Doing>>,
    /// How many waits of idle threads are to time out.
    pub(crate) n_idle_timeouts: Cell<u32>,
    /// How many waits of the monitor are to time out.
    pub(crate) n_monitor_timeouts: Cell<u32>,
    /// A request has failed, so that the loop is to end.
    pub(crate) fails: Cell<bool>,
    /// The fault that is reintroduced, if any.
    pub(crate) fault: Cell<Option<Fault>>,
    /// How many requests have to go on until the loop stops.
    pub(crate) n_to_resume: Cell<u32>,
    is_stopping: Cell<bool>,
    pub(crate) is_stopped: Cell<bool>,
    pub(crate) n_taken_over: Cell<usize>,
    /// Calls that have not released the lock are taken over, too, as overdue ones are.
    pub(crate) takes_any_call: Cell<bool>,
    /// The dispatcher begins to poll without a boundary.
    pub(crate) skips_boundary: Cell<bool>,
}

/// Whether the role was kept during a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Kept,
    Lost,
}

/// How a worker got the role, or kept it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RoleSource {
    Kept,
    FromThreadlet,
    FromPoll,
    Vacant,
    Granted,
}

thread_local! {
    /// Ways that some interleaving has taken: a claim about one that none takes is worth little.
    static SEEN: RefCell<BTreeSet<RoleSource>> = RefCell::default();
}

fn note_source(way: RoleSource) {
    SEEN.with_borrow_mut(|seen| seen.insert(way));
}

impl World {
    /// A loop whose home holds the role; every other worker is known, and none has a thread.
    pub(crate) fn new(n_workers: usize) -> Self {
        let mut registry = WorkerRegistry::new(n_workers);
        let mut world = Self {
            role: Role::new(n_workers),
            lock: Mutex::new(WorkerRegistry::new(n_workers)),
            holder: loom::sync::atomic::AtomicUsize::new(NONE),
            poller: Parker::default(),
            is_in_use: Mutex::new(false),
            changed: Condvar::new(),
            dispatched: UnsafeCell::new(()),
            ids: vec![HOME],
            requests: RefCell::default(),
            threads: RefCell::default(),
            working: Cell::default(),
            calling: Cell::default(),
            current_monitor: Cell::default(),
            n_returned: RefCell::new(vec![0; n_workers + 1]),
            n_taken_over: Cell::default(),
            is_sleeping: Cell::default(),
            is_being_woken: Cell::default(),
            completions: RefCell::default(),
            beside: RefCell::new(Beside::new(usize::MAX)),
            called: Cell::default(),
            bound: RefCell::default(),
            held_calls: RefCell::default(),
            doing: RefCell::default(),
            n_idle_timeouts: Cell::default(),
            n_monitor_timeouts: Cell::default(),
            fails: Cell::default(),
            fault: Cell::default(),
            n_to_resume: Cell::new(1),
            is_stopping: Cell::default(),
            is_stopped: Cell::default(),
            takes_any_call: Cell::default(),
            skips_boundary: Cell::default(),
        };
        world.role.take(&mut registry, HOME);
        world.role.slot(HOME);
        for _ in 0..n_workers {
            let id = world.appoint(&mut registry);
            world.role.clear_monitor();
            world.ids.push(id);
        }
        // The last to end is the first to be appointed.
        world.ids[1..].iter().rev().for_each(|&id| registry.ended(id));
        world.doing.take();
        *world.lock.get_mut().unwrap() = registry;
        world
    }

    /// Appoint a monitor; the caller starts its thread.
    pub(crate) fn appoint(&self, registry: &mut WorkerRegistry) -> WorkerId {
        let seq = self.enter(HOME);
        let Monitoring::Spawn(id) = self.role.ensure_monitor(registry) else {
            unreachable!("no worker is the monitor or idle")
        };
        self.note_called_to_watch(id);
        self.parker(id).take(WakeReason::WAKE);
        self.role.idle_monitor.take(WakeReason::WAKE);
        self.role.leave(HOME, seq);
        id
    }

    /// Begin a call that is not watched.
    pub(crate) fn enter(&self, me: WorkerId) -> u64 {
        let (Called::Monitored(seq) | Called::Unmonitored(seq)) = self.role.enter(me) else {
            unreachable!("{me:?} holds the role, and is in no call")
        };
        self.calling.set(Some(me));
        seq
    }

    /// Note that a request has gone on after its function; the loop stops after the last one.
    pub(crate) fn note_resumed(&self) {
        self.n_to_resume.set(self.n_to_resume.get() - 1);
        self.is_stopping.set(self.n_to_resume.get() == 0);
    }

    pub(crate) fn parker(&self, worker: WorkerId) -> &Parker {
        &self.role.slot(worker).parker
    }

    /// Take the lock.
    pub(crate) fn hold<'a>(self: &'a Rc<Self>, me: WorkerId) -> Held<'a> {
        let registry = self.lock.lock().unwrap();
        self.holder.store(me.index(), Relaxed);
        Held { world: self, registry: Some(registry), me }
    }

    pub(crate) fn spawn(self: &Rc<Self>, live: impl FnOnce(&Rc<Self>) + 'static) {
        let world = Rc::clone(self);
        self.threads.borrow_mut().push(thread::spawn(move || live(&world)));
    }

    pub(crate) fn submit(&self, request: impl FnOnce(&mut Held<'_>) + 'static) {
        self.requests.borrow_mut().push_back(Box::new(request));
    }

    /// The call, if any, inside which the dispatcher has released the lock.
    pub(crate) fn look(&self) -> Option<u64> {
        let (seq, owner) = self.role.inside()?;
        let is_unlocked = self.takes_any_call.get() || self.holder.load(Relaxed) != owner.index();
        (is_unlocked && self.role.seq() == seq).then_some(seq)
    }

    /// End the wait for events, and the waits of threads that queue for it: the role was taken.
    fn end_poll_of_victim(&self) {
        {
            let _in_use = self.is_in_use.lock().unwrap();
            self.changed.notify_all();
        }
        if self.is_sleeping.get() {
            self.poller.unpark(WakeReason::WAKE);
        }
        self.is_sleeping.set(false);
    }

    /// Wait for events, one thread at a time: `Poller::wait`.
    fn wait_for_events(&self, me: WorkerId, sleeps: bool) {
        let mut in_use = self.is_in_use.lock().unwrap();
        while *in_use && self.role.is_held_by(me) {
            in_use = self.changed.wait(in_use).unwrap();
        }
        if *in_use || !self.role.is_held_by(me) {
            return;
        }
        *in_use = true;
        drop(in_use);
        if sleeps {
            self.poller.park(WakeReason::WAKE, None);
        } else {
            self.poller.take(WakeReason::WAKE);
        }
        *self.is_in_use.lock().unwrap() = false;
        self.changed.notify_all();
    }

    /// Wake the thread that waits for events: there are requests.
    pub(crate) fn wake_if_sleeping(&self) {
        if self.is_sleeping.get() && !self.is_being_woken.get() {
            self.poller.unpark(WakeReason::WAKE);
        }
    }

    /// Claim to wake the dispatcher, once the caller has released the lock; `false`: that is not needed.
    pub(crate) fn claim_wake(&self) -> bool {
        self.is_sleeping.get() && !self.is_being_woken.replace(true)
    }
}

/// The lock, held by a worker's thread.
pub(crate) struct Held<'a> {
    pub(crate) world: &'a Rc<World>,
    registry: Option<MutexGuard<'a, WorkerRegistry>>,
    pub(crate) me: WorkerId,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.registry.is_some() && !std::thread::panicking() {
            self.world.holder.store(NONE, Relaxed);
        }
    }
}

impl Held<'_> {
    pub(crate) fn registry(&mut self) -> &mut WorkerRegistry {
        self.registry.as_mut().expect("the lock is held")
    }

    /// Run `work` without the lock.
    pub(crate) fn release<R>(&mut self, work: impl FnOnce() -> R) -> R {
        self.world.holder.store(NONE, Relaxed);
        self.registry = None;
        let result = work();
        self.registry = Some(self.world.lock.lock().unwrap());
        self.world.holder.store(self.me.index(), Relaxed);
        result
    }

    /// Do, without the lock, what only the dispatcher may.
    pub(crate) fn work(&mut self) {
        let world = self.world;
        assert_eq!(Some(self.me), world.working.get());
        self.release(|| world.dispatched.with_mut(|_| ()));
        assert_eq!(Some(self.me), world.working.get());
    }

    /// Call a function as a threadlet: `Workers::protect`, and what its callers do after it.
    pub(crate) fn call(&mut self, function: impl FnOnce(&mut Self)) -> Outcome {
        let seq = self.begin_call();
        function(self);
        self.end_call(seq)
    }

    fn begin_call(&mut self) -> u64 {
        self.try_call().expect("the models have workers enough")
    }

    /// Begin a call, unless no thread is left that could take over.
    pub(crate) fn try_call(&mut self) -> Option<u64> {
        let world = self.world;
        let seq = match world.role.enter(self.me) {
            Called::Monitored(seq) => seq,
            Called::Unmonitored(seq) => {
                let before = world.role.monitor();
                let monitoring = world.role.ensure_monitor(self.registry());
                if let Some(monitor) = world.role.monitor().filter(|_| before.is_none()) {
                    world.note_called_to_watch(monitor);
                }
                match monitoring {
                    Monitoring::Spawn(id) => {
                        world.parker(id).unpark(WakeReason::MONITOR);
                        world.spawn(move |world| world.run_worker(id));
                    }
                    Monitoring::Monitored => {}
                    Monitoring::Full => {
                        assert!(world.role.leave(self.me, seq));
                        return None;
                    }
                }
                seq
            }
            Called::Inside => unreachable!("the models call only as the dispatcher"),
        };
        world.calling.set(Some(self.me));
        Some(seq)
    }

    /// Call a function whose result is sent: its request ends with it, wherever the role is.
    pub(crate) fn call_and_send(&mut self, function: impl FnOnce(&mut Self)) -> Outcome {
        let seq = self.begin_call();
        function(self);
        self.leave(seq)
    }

    pub(crate) fn leave(&mut self, seq: u64) -> Outcome {
        if self.world.calling.get() == Some(self.me) {
            self.world.calling.set(None);
        }
        if !self.world.role.leave(self.me, seq) {
            return Outcome::Lost;
        }
        note_source(RoleSource::Kept);
        Outcome::Kept
    }

    pub(crate) fn end_call(&mut self, seq: u64) -> Outcome {
        let (world, me) = (self.world, self.me);
        if self.leave(seq) == Outcome::Kept {
            return Outcome::Kept;
        }
        self.get_role_back();
        world.n_returned.borrow_mut()[me.index()] += 1;
        world.working.set(Some(me));
        Outcome::Lost
    }

    pub(crate) fn get_role_back(&mut self) {
        let (world, me) = (self.world, self.me);
        let taken = world.role.ask(self.registry(), me);
        if taken.is_none() {
            let reasons = self.release(|| world.parker(me).park(WakeReason::GRANT, None));
            assert_eq!(WakeReason::GRANT, reasons);
        }
        self.gained(taken);
    }

    pub(crate) fn gained(&mut self, taken: Option<Taken>) {
        let world = self.world;
        assert!(world.role.is_held_by(self.me));
        match taken {
            // The victim's request goes on when that worker has the role again.
            Some(Taken::FromThreadlet(victim)) => {
                note_source(RoleSource::FromThreadlet);
                assert_eq!(Some(victim), world.calling.take(), "{victim:?} is in no call");
                assert_eq!(Some(victim), world.working.take(), "{victim:?} called a function");
            }
            Some(Taken::FromPoll) => {
                note_source(RoleSource::FromPoll);
                world.end_poll_of_victim();
            }
            Some(Taken::Vacant) => note_source(RoleSource::Vacant),
            None => note_source(RoleSource::Granted),
        }
        assert_eq!(None, world.working.get(), "the role was taken from a worker at work");
    }

    pub(crate) fn keeps_role(&mut self) -> bool {
        let (role, me) = (&self.world.role, self.me);
        role.boundary(self.registry(), me) == Boundary::Kept
    }

    /// Run requests on the home thread until the loop is to stop.
    pub(crate) fn run_home(&mut self) {
        while !self.dispatch() {
            self.get_role_back();
        }
    }

    /// Run ticks, as in tick.rs of the bindings; whether the loop is to stop, which only home does.
    /// Otherwise the role is lost.
    pub(crate) fn dispatch(&mut self) -> bool {
        while self.run_tick() {
            if self.me == HOME && self.world.is_stopping.get() {
                return true;
            }
        }
        false
    }

    fn run_tick(&mut self) -> bool {
        if !self.take_steps() || !self.poll() {
            return false;
        }
        loop {
            let Some(request) = self.world.requests.borrow_mut().pop_front() else { return true };
            self.run(request);
            if !self.keeps_role() {
                return false;
            }
        }
    }

    pub(crate) fn run(&mut self, request: Request) {
        let working = &self.world.working;
        assert_eq!(None, working.replace(Some(self.me)), "two workers run requests at once");
        request(self);
        if self.world.role.is_held_by(self.me) {
            assert_eq!(Some(self.me), working.take());
        }
    }

    fn poll(&mut self) -> bool {
        let (world, me) = (self.world, self.me);
        if !world.skips_boundary.get() && !self.keeps_role() {
            return false;
        }
        let is_over = me == HOME && world.is_stopping.get();
        let mut sleeps = world.requests.borrow().is_empty() && !is_over;
        self.registry().start_polling();
        world.is_sleeping.set(sleeps);
        world.is_being_woken.set(false);
        let completions = world.completions.borrow().clone();
        if completions.as_ref().is_some_and(|it| it.starts_waiting()) {
            sleeps = false;
        }
        let called = self.take_called();
        self.release(|| {
            if let Some(called) = called {
                world.parker(called).unpark(WakeReason::WORK);
            }
            world.wait_for_events(me, sleeps);
        });
        let is_held = world.role.is_held_by(me);
        if is_held {
            world.is_sleeping.set(false);
            if let Some(completions) = &completions {
                completions.stops_waiting();
            }
            self.registry().stop_polling();
        }
        let items = completions.map(|it| it.take()).unwrap_or_default();
        world.requests.borrow_mut().extend(items.into_iter().map(Item::open));
        if !is_held {
            if !world.has_fault(Fault::LeavesWakingToOthers) {
                world.is_being_woken.set(false);
            }
            world.wake_if_sleeping();
        }
        is_held
    }

    /// End the loop on home, and with it every thread.
    pub(crate) fn stop(mut self) {
        let world = self.world;
        assert!(world.role.is_held_by(HOME));
        assert_eq!((None, 0), (world.working.get(), self.registry().n_waiting()));
        world.role.vacate(self.registry());
        world.is_stopped.set(true);
        world.role.stop_all();
        self.release(|| {
            while let Some(thread) = world.threads.borrow_mut().pop() {
                thread.join().unwrap();
            }
        });
        assert_eq!((0, None), (self.registry().n_threads(), world.role.monitor()));
    }
}

/// Try every interleaving with at most `n_preemptions_max` preemptions, or with any number (`None`); the ways
/// in which the role has moved.
pub(crate) fn check(
    n_preemptions_max: impl Into<Option<usize>>,
    model: impl Fn() + Send + Sync + 'static,
) -> BTreeSet<RoleSource> {
    let n_runs = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(n_preemptions_max.into());
    builder.max_branches = 10_000;
    let counter = Arc::clone(&n_runs);
    builder.check(move || {
        counter.fetch_add(1, Relaxed);
        model();
    });
    eprintln!("{} interleavings in {:.1?}", n_runs.load(Relaxed), started.elapsed());
    SEEN.take()
}
