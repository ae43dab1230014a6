//! The life of a worker's thread, as in worker.rs of the bindings, with its jobs beside the dispatcher
//! (beside.rs) and its steps of tasks that belong to it (bound.rs).

use std::cell::Cell;
use std::rc::Rc;

use loom::thread;
use threadlets_core::Priority;
use threadlets_core::takeover::{Awake, Role, Summons, Taken, WakeReason, WorkerId};

use crate::world::{HOME, Held, Request, World};

/// A job for a thread without the role.
pub(crate) struct Job {
    pub(crate) function: Request,
    /// Runs once the function has returned, and may wait for the loop: a callback of a future that any thread
    /// settles.
    pub(crate) callback: Option<Request>,
    /// The request that the dispatcher runs then.
    pub(crate) settles: Request,
}

/// What an engine sends, and the dispatcher runs.
pub(crate) struct Item(pub(crate) Box<dyn FnOnce(&mut Held<'_>)>);

impl Item {
    pub(crate) fn open(self) -> Request {
        self.0
    }
}

/// What a thread does, unless it is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// It was called, and has not come yet.
    Called,
    Watch,
    Work,
    Role,
    /// Nothing, but something belongs to it.
    Tied,
}

/// A fault that was mended, and that a model finds when it is reintroduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A thread has another one come for the rest of the jobs, which waits until the dispatcher polls.
    LeavesCallingToDispatcher,
    /// A thread that was called off, since no job was left for it, still counts as on its way.
    CallsOffAndCounts,
    /// A thread is called off although calls wait for one to become idle.
    CallsOffThoughHeld,
    /// A monitor that was called for a job, and takes over, has no other thread called for the job.
    TakesOverAndForgetsWork,
    /// A monitor that is called for a job just when it stops watching ends, and still counts as on its way.
    EndsThoughCalledToWork,
    /// A thread ends without having another one called for the jobs for which no thread was left.
    EndsAndCallsNobody,
    /// A thread that was released becomes idle although it was called.
    BecomesIdleThoughCalled,
    /// A thread that loses the role before it has taken all of its steps waits until another one comes.
    WaitsWithStepsToTake,
    /// A thread that has claimed to wake the dispatcher runs something else before.
    ClaimsTooEarly,
    /// A thread that was woken from its poll because it lost the role has taken the wake-up of the next
    /// dispatcher, and leaves waking that to others.
    LeavesWakingToOthers,
}

/// Why the monitor stops watching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noticed {
    Found(u64),
    Work,
    Nothing,
}

impl World {
    pub(crate) fn has_fault(&self, fault: Fault) -> bool {
        self.fault.get() == Some(fault)
    }

    /// Note that an idle thread is called.
    pub(crate) fn note_called(&self, id: WorkerId) {
        let before = self.doing.borrow_mut().insert(id.index(), Doing::Called);
        let is_free = matches!(before, None | Some(Doing::Called));
        assert!(is_free, "{id:?} is called and does {before:?}");
    }

    /// The same for a thread that `ensure_monitor` has made the monitor.
    pub(crate) fn note_called_to_watch(&self, id: WorkerId) {
        if self.doing.borrow().get(&id.index()) != Some(&Doing::Watch) {
            self.note_called(id);
        }
    }

    pub(crate) fn note_doing(&self, me: WorkerId, what: Doing) {
        self.doing.borrow_mut().insert(me.index(), what);
    }

    /// Whether the wait that begins is to time out.
    fn times_out(n_left: &Cell<u32>) -> bool {
        let before = n_left.get();
        n_left.set(before.saturating_sub(1));
        before > 0
    }

    /// Start `n_idle` idle threads.
    pub(crate) fn spawn_idle(self: &Rc<Self>, n_idle: usize) {
        let mut idle = Vec::new();
        for _ in 0..n_idle {
            idle.push(self.appoint(&mut self.lock.lock().unwrap()));
            self.role.clear_monitor();
        }
        for id in idle {
            self.doing.borrow_mut().remove(&id.index());
            self.lock.lock().unwrap().add_idle(id);
            self.spawn(move |world| world.run_worker(id));
        }
    }

    pub(crate) fn run_worker(self: &Rc<Self>, me: WorkerId) {
        let parker = self.parker(me);
        loop {
            let wanted = WakeReason::MONITOR | WakeReason::WORK | WakeReason::ASK;
            let reasons = if Self::times_out(&self.n_idle_timeouts) {
                parker.take(wanted)
            } else {
                parker.park(wanted, None)
            };
            if reasons.has(WakeReason::STOP) {
                self.assert_not_forgotten(me, reasons);
                break;
            }
            let stays = if reasons.has(WakeReason::MONITOR) {
                self.note_doing(me, Doing::Watch);
                parker.unpark(reasons & (WakeReason::WORK | WakeReason::ASK));
                match self.watch(me, |role| role.doze(Awake::MONITOR)) {
                    Noticed::Found(seq) => self.hold(me).take_over(seq),
                    Noticed::Work => self.hold(me).stop_monitoring(),
                    Noticed::Nothing => self.hold(me).after_monitoring(),
                }
            } else if reasons.has(WakeReason::ASK) {
                parker.unpark(reasons & WakeReason::WORK);
                self.hold(me).serve()
            } else if reasons.has(WakeReason::WORK) {
                if self.hold(me).come_to_work() {
                    self.poller.unpark(WakeReason::WAKE);
                }
                true
            } else {
                !self.hold(me).registry().retire(me)
            };
            if !stays {
                break;
            }
        }
        self.end(me);
    }

    /// At the end of the loop a thread is idle or does something, and has its wake reason if it was called.
    fn assert_not_forgotten(self: &Rc<Self>, me: WorkerId, reasons: WakeReason) {
        let is_idle = self.hold(me).registry().is_idle(me);
        let doing = self.doing.borrow().get(&me.index()).copied();
        assert!(is_idle || doing.is_some(), "{me:?} is neither idle nor does anything");
        if doing == Some(Doing::Called) && self.called.get() != Some(me) {
            let reasons = reasons | self.parker(me).take(WakeReason::MONITOR | WakeReason::WORK);
            assert!(
                reasons.has(WakeReason::MONITOR | WakeReason::WORK),
                "{me:?} was called and has no wake reason"
            );
        }
    }

    /// End a worker's thread.
    pub(crate) fn end(self: &Rc<Self>, me: WorkerId) {
        let mut held = self.hold(me);
        if self.role.monitor() == Some(me) {
            held.clear_monitor();
        }
        held.registry().retire(me);
        held.registry().ended(me);
        self.doing.borrow_mut().remove(&me.index());
        if !self.is_stopped.get() {
            held.let_calls_go();
            let reasons = self.parker(me).take(WakeReason::WORK);
            if reasons.has(WakeReason::WORK) && !self.has_fault(Fault::EndsThoughCalledToWork) {
                self.beside.borrow_mut().arrived(me);
            }
            if !self.has_fault(Fault::EndsAndCallsNobody) {
                held.summon();
            }
        }
    }

    /// Be the monitor, as in the core's monitor.rs, but without periods: a look that finds nothing is
    /// repeated once other threads have run.
    pub(crate) fn watch(&self, me: WorkerId, dozes: impl Fn(&Role) -> bool) -> Noticed {
        let mut has_work = false;
        let watched = self.watch_for(me, dozes, &mut has_work);
        if has_work && watched != Noticed::Work && !self.has_fault(Fault::TakesOverAndForgetsWork) {
            self.parker(me).unpark(WakeReason::WORK);
        }
        watched
    }

    fn watch_for(
        &self,
        me: WorkerId,
        dozes: impl Fn(&Role) -> bool,
        has_work: &mut bool,
    ) -> Noticed {
        let parker = self.parker(me);
        let before = self.current_monitor.replace(Some(me));
        assert!(before.is_none_or(|it| it == me), "{before:?} and {me:?} are both the monitor");
        loop {
            let is_inside = self.role.inside().is_some();
            if let Some(seq) = self.look() {
                return Noticed::Found(seq);
            }
            if *has_work && !is_inside {
                return Noticed::Work;
            }
            let wanted = WakeReason::BLOCKED | WakeReason::WAKE | WakeReason::WORK;
            if self.role.inside().is_none() && dozes(&self.role) {
                let times_out = Self::times_out(&self.n_monitor_timeouts);
                let reasons =
                    if times_out { parker.take(wanted) } else { parker.park(wanted, None) };
                if reasons == WakeReason::NONE || reasons.has(WakeReason::STOP) {
                    return Noticed::Nothing;
                }
                *has_work |= reasons.has(WakeReason::WORK);
            } else {
                let reasons = parker.take(wanted);
                if reasons.has(WakeReason::STOP) {
                    return Noticed::Nothing;
                }
                *has_work |= reasons.has(WakeReason::WORK);
                thread::yield_now();
            }
        }
    }
}

impl Held<'_> {
    /// Take over, run requests until the role is lost, then be idle.
    fn take_over(&mut self, seq: u64) -> bool {
        let (world, me) = (self.world, self.me);
        let Some(taken) = world.role.take_over(self.registry(), me, seq) else {
            world.parker(me).unpark(WakeReason::MONITOR);
            return true;
        };
        assert!(matches!(taken, Taken::FromThreadlet(_)));
        assert_eq!(seq + 1, world.role.seq(), "the role was to be taken from this call");
        assert!(!self.registry().is_idle(me), "{me:?} takes over and is idle");
        world.note_doing(me, Doing::Role);
        world.current_monitor.set(None);
        world.n_taken_over.set(world.n_taken_over.get() + 1);
        self.gained(Some(taken));
        if !world.has_fault(Fault::TakesOverAndForgetsWork)
            && world.parker(me).take(WakeReason::WORK).has(WakeReason::WORK)
        {
            world.beside.borrow_mut().arrived(me);
            self.summon();
        }
        // Python code runs when a thread takes over for the first time, and may release the lock. The
        // victim's function may return then, so its task must have been parked before.
        self.release(|| ());
        self.dispatch();
        self.add_idle();
        true
    }

    /// Run the jobs that wait, then be idle; whether the dispatcher is to be woken then.
    pub(crate) fn come_to_work(&mut self) -> bool {
        let (world, me) = (self.world, self.me);
        if world.role.monitor() == Some(me) {
            world.parker(me).unpark(WakeReason::WORK);
            return false;
        }
        if world.bound.borrow().has_bindings(me) {
            world.beside.borrow_mut().arrived(me);
            self.summon();
            return false;
        }
        if !world.has_fault(Fault::BecomesIdleThoughCalled) {
            self.registry().retire(me);
        }
        world.note_doing(me, Doing::Work);
        let wakes = self.work_beside();
        self.add_idle();
        wakes
    }

    /// Stop being the monitor for the jobs that wait, unless a threadlet has begun.
    fn stop_monitoring(&mut self) -> bool {
        let (world, parker) = (self.world, self.world.parker(self.me));
        if world.role.inside().is_none() {
            self.clear_monitor();
        } else {
            parker.unpark(WakeReason::MONITOR);
        }
        parker.unpark(WakeReason::WORK);
        true
    }

    /// Take the steps of tasks that belong to this thread; be idle if nothing belongs to it any more.
    fn serve(&mut self) -> bool {
        let (world, me) = (self.world, self.me);
        if world.bound.borrow().has_steps(me) {
            world.note_doing(me, Doing::Role);
            self.get_role_back();
            self.dispatch();
        }
        self.add_idle();
        true
    }

    /// Be idle, unless this thread is the monitor or something is bound to it; call a thread at once for what waits already.
    pub(crate) fn add_idle(&mut self) {
        let (world, me) = (self.world, self.me);
        if world.role.monitor() == Some(me) && !world.has_fault(Fault::BecomesIdleThoughCalled) {
            return;
        }
        if world.bound.borrow().has_steps(me) && !world.has_fault(Fault::WaitsWithStepsToTake) {
            world.parker(me).unpark(WakeReason::ASK);
        }
        if world.bound.borrow().has_bindings(me) || world.bound.borrow().has_steps(me) {
            return world.note_doing(me, Doing::Tied);
        }
        if !self.registry().is_idle(me) {
            let mut doing = world.doing.borrow_mut();
            if doing.get(&me.index()) != Some(&Doing::Called) {
                doing.remove(&me.index());
            }
            drop(doing);
            self.registry().add_idle(me);
        }
        self.let_calls_go();
        self.summon();
    }

    pub(crate) fn after_monitoring(&mut self) -> bool {
        let (world, me) = (self.world, self.me);
        if world.role.inside().is_some() && !world.is_stopped.get() {
            world.parker(me).unpark(WakeReason::MONITOR);
            return true;
        }
        self.clear_monitor();
        false
    }

    pub(crate) fn clear_monitor(&mut self) {
        self.world.role.clear_monitor();
        self.world.current_monitor.set(None);
    }

    /// Queue again the calls for which no thread was left: `hold_calls`.
    pub(crate) fn let_calls_go(&mut self) {
        let held = self.world.held_calls.take();
        if !held.is_empty() {
            self.world.requests.borrow_mut().extend(held);
            self.world.wake_if_sleeping();
        }
    }

    /// Queue a request, and wake the dispatcher should it be waiting for events.
    pub(crate) fn submit(&mut self, request: impl FnOnce(&mut Held<'_>) + 'static) {
        self.world.submit(request);
        self.world.wake_if_sleeping();
    }

    // -- beside ----------------------------------------------------------------------------------

    /// Queue a job, and have a thread come for it when the lock is free: `Workers::submit_beside`.
    pub(crate) fn submit_beside(&mut self, job: Job) {
        self.world.beside.borrow_mut().submit(Priority::Normal, job);
        self.summon_when(true);
    }

    pub(crate) fn summon(&mut self) {
        self.summon_when(false);
    }

    fn summon_when(&mut self, lock_is_free: bool) {
        let world = self.world;
        let summons = world.beside.borrow_mut().summon(self.registry());
        match summons {
            Summons::NotNeeded => {}
            Summons::OnItsWay => {
                if !lock_is_free
                    && !world.has_fault(Fault::LeavesCallingToDispatcher)
                    && let Some(called) = world.called.take()
                {
                    world.parker(called).unpark(WakeReason::WORK);
                }
            }
            Summons::Unpark(id) => {
                world.note_called(id);
                if !lock_is_free {
                    return world.parker(id).unpark(WakeReason::WORK);
                }
                assert_eq!(None, world.called.replace(Some(id)), "two threads are to be called");
            }
            Summons::Spawn(id) => {
                world.note_called(id);
                world.parker(id).unpark(WakeReason::WORK);
                world.spawn(move |world| world.run_worker(id));
            }
            Summons::Full => {
                if let Some(monitor) = world.role.monitor() {
                    world.beside.borrow_mut().summon_monitor(monitor);
                    world.parker(monitor).unpark(WakeReason::WORK);
                }
            }
        }
    }

    /// The thread that is to be called when the lock is free, unless no job is left for it.
    pub(crate) fn take_called(&mut self) -> Option<WorkerId> {
        let world = self.world;
        let called = world.called.take()?;
        if !world.held_calls.borrow().is_empty() && !world.has_fault(Fault::CallsOffThoughHeld) {
            return Some(called);
        }
        let mut beside = world.beside.borrow_mut();
        if world.has_fault(Fault::CallsOffAndCounts) && beside.is_empty() {
            self.registry().add_idle(called);
        } else if !beside.call_off(self.registry(), called) {
            return Some(called);
        }
        world.doing.borrow_mut().remove(&called.index());
        None
    }

    /// Run the jobs that wait, one after the other; whether the dispatcher is to be woken.
    fn work_beside(&mut self) -> bool {
        let (world, me) = (self.world, self.me);
        let mut wakes = false;
        loop {
            let job = {
                let mut beside = world.beside.borrow_mut();
                beside.arrived(me);
                beside.take()
            };
            let Some(job) = job else { return wakes };
            self.summon();
            if std::mem::take(&mut wakes) {
                self.release(|| world.poller.unpark(WakeReason::WAKE));
            }
            assert!(!self.registry().is_idle(me), "{me:?} works and is idle");
            assert!(world.role.monitor() != Some(me), "{me:?} works and is the monitor");
            assert!(
                !world.bound.borrow().has_bindings(me),
                "{me:?} works, and something is bound to it"
            );
            world.beside.borrow_mut().begins(me, 0, 0);
            (job.function)(self);
            wakes = world.has_fault(Fault::ClaimsTooEarly) && world.claim_wake();
            if let Some(callback) = job.callback {
                callback(self);
            }
            wakes |= world.claim_wake();
            self.submit(job.settles);
            assert!(world.beside.borrow_mut().ends(me).is_some());
        }
    }

    // -- bound -----------------------------------------------------------------------------------

    /// Take the steps that were handed over to this thread; whether it still has the role.
    pub(crate) fn take_steps(&mut self) -> bool {
        let (world, me) = (self.world, self.me);
        if !world.bound.borrow().has_steps(me) {
            return true;
        }
        let mut steps = world.bound.borrow_mut().take_steps(me).into_iter();
        while world.role.is_held_by(me) {
            let Some(step) = steps.next() else { return true };
            self.run(step);
            if world.fails.take() {
                world.bound.borrow_mut().put_back(me, steps);
                // A failed tick is followed by a boundary.
                return self.keeps_role() && self.take_steps();
            }
        }
        world.bound.borrow_mut().put_back(me, steps);
        world.role.is_held_by(me)
    }

    /// Note that one thing less belongs to a thread.
    pub(crate) fn remove_binding(&mut self, worker: WorkerId) {
        if self.world.bound.borrow_mut().remove_binding(worker) && worker != HOME {
            self.world.parker(worker).unpark(WakeReason::ASK);
        }
    }
}

impl World {
    /// Queue a step of a task that belongs to a thread.
    pub(crate) fn submit_step(&self, worker: WorkerId, step: Request) {
        self.submit(move |held| {
            let world = held.world;
            if held.me == worker {
                return step(held);
            }
            world.bound.borrow_mut().hand_over(worker, step);
            if worker != HOME {
                world.parker(worker).unpark(WakeReason::ASK);
            }
        });
    }
}
