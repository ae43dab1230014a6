//! Jobs beside the dispatcher, under the model checker: which thread comes for them, while the role moves and
//! calls are watched.

use std::rc::Rc;

use threadlets_core::takeover::{Parker, WakeReason, WorkerId};

use crate::life::{Fault, Job};
use crate::world::{HOME, Outcome, Request, World, check};

/// A function that releases the lock for a while.
pub(crate) fn release() -> Request {
    Box::new(|held| held.release(|| ()))
}

/// A function that blocks until `opened` is unparked.
fn wait_for(opened: &Rc<Parker>) -> Request {
    let opened = Rc::clone(opened);
    Box::new(move |held| {
        held.release(|| opened.park(WakeReason::WAKE, None));
    })
}

/// Unpark `opened`, and count a request that was to go on.
fn open(opened: &Rc<Parker>) -> Request {
    let opened = Rc::clone(opened);
    Box::new(move |held| {
        opened.unpark(WakeReason::WAKE);
        held.world.note_resumed();
    })
}

pub(crate) fn resume() -> Request {
    Box::new(|held| held.world.note_resumed())
}

pub(crate) fn job(function: Request, settles: Request) -> Job {
    Job { function, callback: None, settles }
}

/// Call a function if a thread is left that could take over, and then go on; otherwise hold the call.
fn call(function: Request, then: Request) -> Request {
    Box::new(move |held| {
        let Some(seq) = held.try_call() else {
            held.world.held_calls.borrow_mut().push(call(function, then));
            return;
        };
        function(held);
        held.end_call(seq);
        then(held);
    })
}

/// Come for the jobs that wait, though another thread is on its way to them, and go on as any worker.
fn come_unasked(world: &Rc<World>, me: WorkerId) {
    if world.hold(me).come_to_work() {
        world.poller.unpark(WakeReason::WAKE);
    }
    world.run_worker(me);
}

/// Run one loop until `n_to_resume` requests have gone on.
pub(crate) fn run(
    n_preemptions_max: usize,
    n_workers: usize,
    n_to_resume: u32,
    fault: Option<Fault>,
    begin: impl Fn(&Rc<World>) + Send + Sync + 'static,
) {
    check(n_preemptions_max, move || {
        let world = Rc::new(World::new(n_workers));
        world.fault.set(fault);
        world.n_to_resume.set(n_to_resume);
        begin(&world);
        let mut held = world.hold(HOME);
        held.run_home();
        let (beside, bound) = (world.beside.borrow(), world.bound.borrow());
        assert_eq!((0, 0), (beside.jobs().count(), beside.n_at_work()));
        assert_eq!(0, bound.steps().count());
        drop((beside, bound));
        held.stop();
    });
}

/// Two jobs are done once each, by one thread or two, and the dispatcher sleeps through no result.
#[test]
fn work_is_done_once_and_its_results_wake_the_dispatcher() {
    run(3, 2, 2, None, |world| {
        world.submit(|held| {
            held.submit_beside(job(release(), resume()));
            held.submit_beside(job(release(), resume()));
        });
    });
}

/// A job that blocks until the next one is done does not delay that one.
#[test]
fn a_job_that_blocks_delays_no_other() {
    run(3, 2, 2, None, |world| {
        let opened = Rc::new(Parker::default());
        let (blocks, opens) = (wait_for(&opened), open(&opened));
        world.submit(|held| {
            held.submit_beside(job(blocks, resume()));
            held.submit_beside(job(release(), opens));
        });
    });
}

/// A job that comes just when a thread has ended the last one is done, by that thread or another.
#[test]
fn a_job_that_comes_while_a_thread_becomes_idle_is_done() {
    run(3, 1, 2, None, |world| {
        world.submit(|held| {
            let settles: Request = Box::new(|held| {
                held.world.note_resumed();
                held.submit_beside(job(release(), resume()));
            });
            held.submit_beside(job(release(), settles));
        });
    });
}

/// A thread takes the first of two jobs while another one is to be called once the dispatcher polls. The first
/// job blocks until the second is done, and so does the dispatcher before it polls.
fn a_thread_is_still_to_be_called(fault: Option<Fault>) {
    run(2, 2, 2, fault, |world| {
        let worker = world.appoint(&mut world.lock.lock().unwrap());
        world.role.clear_monitor();
        world.spawn_idle(1);
        let (submitted, opened, done) = <(Rc<Parker>, Rc<Parker>, Rc<Parker>)>::default();
        let is_submitted = Rc::clone(&submitted);
        world.spawn(move |world| {
            is_submitted.park(WakeReason::WAKE, None);
            come_unasked(world, worker);
        });
        world.submit(move |held| {
            let is_done = Rc::clone(&done);
            let finishes: Request = Box::new(move |_| is_done.unpark(WakeReason::WAKE));
            held.submit_beside(job(wait_for(&opened), resume()));
            held.submit_beside(job(finishes, open(&opened)));
            submitted.unpark(WakeReason::WAKE);
            held.release(|| done.park(WakeReason::WAKE, None));
        });
    });
}

#[test]
fn a_thread_that_is_to_be_called_comes_although_the_dispatcher_does_not_poll() {
    a_thread_is_still_to_be_called(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn leaving_the_call_to_the_dispatcher_is_a_deadlock() {
    a_thread_is_still_to_be_called(Some(Fault::LeavesCallingToDispatcher));
}

/// A thread takes the job for which another one is to be called. That one is called off, and comes for the
/// next job.
fn a_thread_is_called_off(fault: Option<Fault>) {
    run(2, 2, 2, fault, |world| {
        let worker = world.appoint(&mut world.lock.lock().unwrap());
        world.role.clear_monitor();
        world.spawn_idle(1);
        world.spawn(move |world| {
            let next: Request =
                Box::new(|held| held.submit_beside(job(Box::new(|_| ()), resume())));
            if world.hold(worker).come_to_work() {
                world.poller.unpark(WakeReason::WAKE);
            }
            world.hold(worker).submit(next);
            world.run_worker(worker);
        });
        world.submit(|held| {
            held.submit_beside(job(Box::new(|_| ()), resume()));
            held.release(|| ());
        });
    });
}

#[test]
fn a_thread_that_was_called_off_comes_for_the_next_job() {
    a_thread_is_called_off(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_thread_that_was_called_off_and_counts_leaves_work_undone() {
    a_thread_is_called_off(Some(Fault::CallsOffAndCounts));
}

/// A thread takes the job for which another one is to be called, and blocks until a held call has been made: the
/// other one has to come all the same, since a thread that becomes idle lets held calls go.
fn a_thread_is_to_be_called_while_calls_are_held(fault: Option<Fault>) {
    run(2, 2, 2, fault, |world| {
        let worker = world.appoint(&mut world.lock.lock().unwrap());
        world.role.clear_monitor();
        world.spawn_idle(1);
        world.spawn(move |world| come_unasked(world, worker));
        world.submit(|held| {
            let opened = Rc::new(Parker::default());
            held.submit_beside(job(wait_for(&opened), resume()));
            call(Box::new(|_| ()), open(&opened))(held);
            held.release(|| ());
        });
    });
}

#[test]
fn a_thread_comes_for_no_job_to_let_held_calls_go() {
    a_thread_is_to_be_called_while_calls_are_held(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn calling_off_a_thread_while_calls_are_held_is_a_deadlock() {
    a_thread_is_to_be_called_while_calls_are_held(Some(Fault::CallsOffThoughHeld));
}

/// A callback that runs on a job's thread waits for the loop: one of a future that any thread settles.
fn a_callback_waits_for_the_loop(fault: Option<Fault>) {
    run(3, 1, 1, fault, |world| {
        let opened = Rc::new(Parker::default());
        let callback: Request = Box::new(move |held| {
            let opens = Rc::clone(&opened);
            held.submit(move |_| opens.unpark(WakeReason::WAKE));
            held.release(|| opened.park(WakeReason::WAKE, None));
        });
        world.submit(|held| {
            held.submit_beside(Job {
                function: release(),
                callback: Some(callback),
                settles: resume(),
            });
        });
    });
}

#[test]
fn a_callback_of_a_result_may_wait_for_the_loop() {
    a_callback_waits_for_the_loop(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn claiming_to_wake_the_dispatcher_before_a_callback_is_a_deadlock() {
    a_callback_waits_for_the_loop(Some(Fault::ClaimsTooEarly));
}

/// A function that is called inline blocks until the job beside it is done: one thread runs the job while
/// another takes over.
fn a_call_blocks_while_others_work(fault: Option<Fault>) {
    run(2, 2, 3, fault, |world| {
        let opened = Rc::new(Parker::default());
        let (blocks, opens) = (wait_for(&opened), open(&opened));
        world.submit(|held| {
            held.submit_beside(job(release(), opens));
            let seq = held.try_call().expect("there are threads enough");
            blocks(held);
            assert_eq!(Outcome::Lost, held.end_call(seq));
            held.work();
            held.world.note_resumed();
        });
        world.submit(|held| held.submit_beside(job(release(), resume())));
    });
}

#[test]
fn a_call_is_taken_over_while_others_work() {
    a_call_blocks_while_others_work(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_former_dispatcher_that_takes_a_wake_up_makes_the_next_one_sleep_for_ever() {
    a_call_blocks_while_others_work(Some(Fault::LeavesWakingToOthers));
}

/// With one thread for all, a call that blocks and a job are both done, whichever comes first.
fn a_call_and_work_share_one_thread(fault: Option<Fault>) {
    run(3, 1, 2, fault, |world| {
        let opened = Rc::new(Parker::default());
        let opens = Rc::clone(&opened);
        // From this call on the thread is the monitor.
        world.submit(call(Box::new(|_| ()), Box::new(|_| ())));
        world.submit(|held| {
            held.submit_beside(job(release(), resume()));
            held.release(|| ());
        });
        world.submit(call(wait_for(&opened), resume()));
        world.submit(move |_| opens.unpark(WakeReason::WAKE));
    });
}

#[test]
fn at_the_limit_calls_and_work_share_threads() {
    a_call_and_work_share_one_thread(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_monitor_that_takes_over_and_forgets_work_leaves_it_undone() {
    a_call_and_work_share_one_thread(Some(Fault::TakesOverAndForgetsWork));
}

/// With one thread for all, whose wait times out: as an idle worker or, after a call, as the monitor.
fn work_comes_when_the_last_thread_ends(is_monitor: bool, fault: Option<Fault>) {
    run(3, 1, 1, fault, move |world| {
        if is_monitor {
            world.n_monitor_timeouts.set(1);
            let monitor = world.appoint(&mut world.lock.lock().unwrap());
            world.parker(monitor).unpark(WakeReason::MONITOR);
            world.spawn(move |world| world.run_worker(monitor));
        } else {
            world.n_idle_timeouts.set(1);
            world.spawn_idle(1);
        }
        world.submit(|held| held.submit_beside(job(release(), resume())));
    });
}

#[test]
fn at_the_limit_work_is_done_though_an_idle_thread_ends() {
    work_comes_when_the_last_thread_ends(false, None);
}

#[test]
fn at_the_limit_work_is_done_though_the_monitor_ends() {
    work_comes_when_the_last_thread_ends(true, None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn an_idle_thread_that_ends_and_calls_no_other_leaves_work_undone() {
    work_comes_when_the_last_thread_ends(false, Some(Fault::EndsAndCallsNobody));
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_monitor_that_ends_though_called_leaves_work_undone() {
    work_comes_when_the_last_thread_ends(true, Some(Fault::EndsThoughCalledToWork));
}
