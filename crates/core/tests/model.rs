//! The take-over protocol under a model checker, with jobs for threads without the role (beside.rs), tasks
//! that belong to a thread (bound.rs), and queues (queues.rs). The checker tries every interleaving of the
//! threads that has no more than a few preemptions.
//!
//! Some tests reintroduce a fault that was mended, and expect that the model finds it.
//!
//! No wait times out in a model: a thread that is forgotten waits for ever, and the checker reports a
//! deadlock. Run it alone, in release mode and with the feature `model`.

#![cfg(feature = "model")]

#[path = "model/beside.rs"]
mod beside;
#[path = "model/bound.rs"]
mod bound;
#[path = "model/life.rs"]
mod life;
#[path = "model/queues.rs"]
mod queues;
#[path = "model/world.rs"]
mod world;

use std::rc::Rc;

use loom::thread;
use threadlets_core::takeover::{Awake, Parker, Role, Taken, WakeReason, WorkerId};

use world::{HOME, Held, Outcome, RoleSource, World, check};

/// A function that waits, without the lock, until `parker` is unparked.
fn wait_for(parker: &Rc<Parker>) -> impl FnOnce(&mut Held<'_>) + use<> {
    let parker = Rc::clone(parker);
    move |held| {
        held.release(|| parker.park(WakeReason::WAKE, None));
    }
}

/// Submit a call of a function that blocks until the next request has run; then the loop is to stop.
fn submit_a_blocking_call(world: &World) {
    let opened = Rc::new(Parker::default());
    let function = wait_for(&opened);
    world.submit(|held| {
        held.work();
        assert_eq!(Outcome::Lost, held.call(function));
        held.work();
        held.world.note_resumed();
    });
    world.submit(move |held| {
        held.work();
        opened.unpark(WakeReason::WAKE);
        held.work();
    });
}

/// A function blocks until another worker has run the next request; it then returns, and its request goes
/// on at home.
#[test]
fn a_blocked_call_is_taken_over_and_the_role_returns() {
    check(5, || {
        let world = Rc::new(World::new(1));
        submit_a_blocking_call(&world);
        let mut held = world.hold(HOME);
        held.run_home();
        assert_eq!(vec![1, 0], *world.n_returned.borrow());
        held.stop();
    });
}

/// Two calls, each of which blocks until the monitor, or the idle monitor, has noticed it. `dozes` is asked
/// when that thread sees no call, `has_seen_enough` after it has noticed one.
fn two_calls_wait_to_be_noticed(
    monitor: Awake,
    dozes: fn(&Role) -> bool,
    has_seen_enough: fn(&Role, u64) -> bool,
) {
    check(5, move || {
        let world = Rc::new(World::new(1));
        let worker = world.appoint(&mut world.lock.lock().unwrap());
        let noticed = Rc::new(Parker::default());
        let notices = Rc::clone(&noticed);
        world.spawn(move |world| {
            let is_idle_monitor = monitor == Awake::IDLE_MONITOR;
            let parker =
                if is_idle_monitor { &world.role.idle_monitor } else { world.parker(worker) };
            let mut last_seq = 0;
            let mut n_noticed = 0;
            while n_noticed < 2 {
                match world.role.inside() {
                    Some((seq, _)) if seq != last_seq => {
                        last_seq = seq;
                        n_noticed += 1;
                        notices.unpark(WakeReason::WAKE);
                        if n_noticed < 2 && has_seen_enough(&world.role, seq) {
                            parker.park(WakeReason::WAKE, None);
                        }
                    }
                    Some(_) => thread::yield_now(),
                    None if dozes(&world.role) => _ = parker.park(WakeReason::WAKE, None),
                    None => {}
                }
            }
        });
        let mut held = world.hold(HOME);
        for _ in 0..2 {
            assert_eq!(Outcome::Kept, held.call(wait_for(&noticed)));
        }
    });
}

/// Whenever a call begins, the monitor is awake or is woken.
#[test]
fn no_call_begins_unnoticed_by_the_monitor() {
    let dozes = |role: &Role| role.doze(Awake::MONITOR);
    two_calls_wait_to_be_noticed(Awake::MONITOR, dozes, |_, _| false);
}

/// The model can fail: it catches a former monitor, which dozed off without looking again whether a
/// threadlet runs.
#[test]
#[should_panic(expected = "deadlock")]
fn dozing_off_without_a_last_look_loses_a_wake_up() {
    let dozes = |role: &Role| {
        role.doze_until_next_call(Awake::MONITOR);
        true
    };
    two_calls_wait_to_be_noticed(Awake::MONITOR, dozes, |_, _| false);
}

/// An idle monitor that dozes off when it has seen enough of a call, but looks again whether that call still
/// runs, is awake or is woken whenever a call begins.
#[test]
fn no_call_begins_unnoticed_by_the_idle_monitor() {
    let dozes = |role: &Role| role.doze(Awake::IDLE_MONITOR);
    two_calls_wait_to_be_noticed(Awake::IDLE_MONITOR, dozes, |role, seq| {
        role.doze_until_next_call(Awake::IDLE_MONITOR);
        role.seq() == seq
    });
}

/// An idle monitor that does not look again may sleep through the next call, if that has begun before the
/// idle monitor has cleared its bit.
#[test]
#[should_panic(expected = "deadlock")]
fn having_seen_enough_without_a_last_look_loses_a_wake_up() {
    let dozes = |role: &Role| role.doze(Awake::IDLE_MONITOR);
    two_calls_wait_to_be_noticed(Awake::IDLE_MONITOR, dozes, |role, _| {
        role.doze_until_next_call(Awake::IDLE_MONITOR);
        true
    });
}

/// Begin a call on `from`, and have `to` take the role from inside it; the call's number.
fn lose_in_call(world: &World, from: WorkerId, to: WorkerId) -> u64 {
    let seq = world.enter(from);
    let taken = world.role.take(&mut world.lock.lock().unwrap(), to);
    assert_eq!(Some(Taken::FromThreadlet(from)), taken);
    seq
}

/// End a call whose role was lost: go on with its request when the role is back.
fn resume_after_call(held: &mut Held<'_>, seq: u64) {
    assert_eq!(Outcome::Lost, held.end_call(seq));
    held.work();
    held.world.note_resumed();
    assert_eq!(Some(held.me), held.world.working.take());
}

/// On a worker: end a call whose role was lost, then run requests until the role is lost again.
fn return_to_worker(world: &Rc<World>, me: WorkerId, seq: u64) {
    let mut held = world.hold(me);
    resume_after_call(&mut held, seq);
    if held.keeps_role() {
        held.dispatch();
    }
}

/// On home: end a call whose role was lost, then run requests until the loop is to stop.
fn return_to_home(world: &Rc<World>, seq: u64) {
    let mut held = world.hold(HOME);
    resume_after_call(&mut held, seq);
    if !held.keeps_role() {
        held.get_role_back();
    }
    held.run_home();
    held.stop();
}

/// Home and a worker return at the same time while a third worker runs a request, and then polls: each of
/// the two gets the role back once.
#[test]
fn workers_that_return_at_once_all_get_the_role() {
    let seen = check(3, || {
        let world = Rc::new(World::new(2));
        world.n_to_resume.set(2);
        let [_, first, second] = world.ids[..] else { unreachable!("home and two others") };
        let home_seq = lose_in_call(&world, HOME, first);
        let first_seq = lose_in_call(&world, first, second);
        world.submit(|held| held.work());
        world.spawn(move |world| {
            world.hold(second).dispatch();
        });
        world.spawn(move |world| return_to_worker(world, first, first_seq));
        return_to_home(&world, home_seq);
        assert_eq!(vec![1, 1, 0], *world.n_returned.borrow());
    });
    assert_eq!(vec![RoleSource::FromPoll, RoleSource::Granted], Vec::from_iter(seen));
}

/// Home returns while a worker is itself inside a function, which returns as well: home takes the role from
/// inside that function, or from a poll, or is granted it.
#[test]
fn a_return_takes_the_role_from_inside_a_threadlet_or_waits() {
    let seen = check(6, || {
        let world = Rc::new(World::new(1));
        world.n_to_resume.set(2);
        let first = world.ids[1];
        let home_seq = lose_in_call(&world, HOME, first);
        world.spawn(move |world| {
            let mut held = world.hold(first);
            held.run(Box::new(move |held| {
                let seq = held.world.enter(first);
                held.release(|| ());
                held.end_call(seq);
                held.work();
                held.world.note_resumed();
            }));
            if held.keeps_role() {
                held.dispatch();
            }
        });
        return_to_home(&world, home_seq);
    });
    let ways =
        [RoleSource::Kept, RoleSource::FromThreadlet, RoleSource::FromPoll, RoleSource::Granted];
    assert_eq!(ways.as_slice(), Vec::from_iter(seen));
}

/// Two workers return while home polls, and home gets the role back in between.
fn two_return_to_a_home_that_polls(skips_boundary: bool) {
    check(2, move || {
        let world = Rc::new(World::new(2));
        world.skips_boundary.set(skips_boundary);
        world.n_to_resume.set(2);
        let [_, first, second] = world.ids[..] else { unreachable!("home and two others") };
        lose_in_call(&world, HOME, first);
        let first_seq = lose_in_call(&world, first, second);
        let second_seq = lose_in_call(&world, second, HOME);
        for (me, seq) in [(first, first_seq), (second, second_seq)] {
            world.spawn(move |world| return_to_worker(world, me, seq));
        }
        let mut held = world.hold(HOME);
        held.run_home();
        assert_eq!(vec![0, 1, 1], *world.n_returned.borrow());
        held.stop();
    });
}

/// A worker that takes the role from a poll, or asks for it while another does, gets it once and is not
/// forgotten.
#[test]
fn workers_that_return_while_the_dispatcher_polls_all_get_the_role() {
    two_return_to_a_home_that_polls(false);
}

/// A dispatcher that begins to poll without a boundary forgets the workers that have asked since it was
/// granted the role: it has run no request, after which there would have been a boundary.
#[test]
#[should_panic(expected = "deadlock")]
fn polling_without_a_boundary_forgets_waiting_workers() {
    two_return_to_a_home_that_polls(true);
}

/// A worker whose function returns while the loop does not run gets the role when the loop runs again,
/// though there is nothing else to do.
#[test]
fn a_return_to_a_vacant_role_waits_for_home() {
    check(5, || {
        let world = Rc::new(World::new(1));
        let first = world.ids[1];
        lose_in_call(&world, HOME, first);
        let seq = lose_in_call(&world, first, HOME);
        world.role.vacate(&mut world.lock.lock().unwrap());
        world.spawn(move |world| return_to_worker(world, first, seq));
        let mut held = world.hold(HOME);
        assert_eq!(Some(Taken::Vacant), world.role.take(held.registry(), HOME));
        held.run_home();
        assert_eq!(vec![0, 1], *world.n_returned.borrow());
        held.stop();
    });
}

/// When a function returns just as the monitor takes over, the role is either kept or taken.
#[test]
fn a_role_is_kept_or_taken_never_both() {
    let seen = check(4, || {
        let world = Rc::new(World::new(2));
        world.takes_any_call.set(true);
        world.submit(|held| {
            let outcomes = [(); 2].map(|()| held.call(|held| held.release(|| ())));
            let n_lost = outcomes.iter().filter(|&&it| it == Outcome::Lost).count();
            assert_eq!(n_lost, held.world.n_taken_over.get());
            held.work();
            held.world.note_resumed();
        });
        let mut held = world.hold(HOME);
        held.run_home();
        held.stop();
    });
    assert!(seen.is_superset(&[RoleSource::Kept, RoleSource::FromThreadlet].into()), "{seen:?}");
}

/// Be the monitor, and stop watching after a wait without a call.
fn watch_for_a_while(world: &Rc<World>, me: WorkerId) {
    let parker = world.parker(me);
    if world.look().is_none()
        && world.role.doze(Awake::MONITOR)
        && !parker.take(WakeReason::WAKE).has(WakeReason::WAKE)
        && !world.hold(me).after_monitoring()
    {
        return world.end(me);
    }
    parker.unpark(WakeReason::MONITOR);
    world.run_worker(me);
}

/// A call that begins while the monitor stops watching is watched, by that worker or by a new one, and
/// never by two.
#[test]
fn a_call_is_watched_though_the_monitor_leaves() {
    check(4, || {
        let world = Rc::new(World::new(2));
        let monitor = world.appoint(&mut world.lock.lock().unwrap());
        world.spawn(move |world| watch_for_a_while(world, monitor));
        submit_a_blocking_call(&world);
        let mut held = world.hold(HOME);
        held.run_home();
        held.stop();
    });
}

/// A call that begins while an idle thread ends is watched, by that thread or by a new one.
#[test]
fn a_call_is_watched_though_an_idle_thread_ends() {
    check(4, || {
        let world = Rc::new(World::new(2));
        let idle = world.appoint(&mut world.lock.lock().unwrap());
        world.role.clear_monitor();
        world.doing.take();
        world.lock.lock().unwrap().add_idle(idle);
        world.spawn(move |world| {
            // Its wait has timed out: it looks, once, whether it was appointed meanwhile.
            if !world.parker(idle).take(WakeReason::NONE).has(WakeReason::MONITOR) {
                let mut held = world.hold(idle);
                if held.registry().retire(idle) {
                    return held.registry().ended(idle);
                }
            }
            world.run_worker(idle);
        });
        submit_a_blocking_call(&world);
        let mut held = world.hold(HOME);
        held.run_home();
        held.stop();
    });
}

/// A worker that took over calls a function that blocks, too: one other worker becomes the monitor, never
/// two, and both functions return.
#[test]
fn a_call_of_a_worker_that_took_over_is_watched_by_one_other() {
    check(2, || {
        let world = Rc::new(World::new(2));
        world.n_to_resume.set(2);
        let opened = [(); 2].map(|()| Rc::new(Parker::default()));
        for parker in &opened {
            let function = wait_for(parker);
            world.submit(|held| {
                assert_eq!(Outcome::Lost, held.call(function));
                held.world.note_resumed();
            });
        }
        world.submit(move |_| opened.iter().for_each(|it| it.unpark(WakeReason::WAKE)));
        let mut held = world.hold(HOME);
        held.run_home();
        assert_eq!((1, 2), (world.n_returned.borrow()[0], world.n_taken_over.get()));
        held.stop();
    });
}

/// After a function whose result is sent, a worker leaves the role where it is, and only home asks for it; a
/// worker that returns at the same time is not forgotten.
#[test]
fn a_function_whose_result_is_sent_leaves_the_role_to_others() {
    check(2, || {
        let world = Rc::new(World::new(2));
        let opened = [(); 2].map(|()| Rc::new(Parker::default()));
        let [sends, returns] = [0, 1].map(|idx| wait_for(&opened[idx]));
        world.submit(|held| assert_eq!(Outcome::Lost, held.call_and_send(sends)));
        world.submit(|held| {
            assert_eq!(Outcome::Lost, held.call(returns));
            held.world.note_resumed();
        });
        world.submit(move |_| opened.iter().for_each(|it| it.unpark(WakeReason::WAKE)));
        let mut held = world.hold(HOME);
        held.run_home();
        held.stop();
    });
}

/// `STOP` wakes a thread whatever it waits for, and does so again however often it waits.
#[test]
fn stop_wakes_every_thread() {
    check(3, || {
        let world = Rc::new(World::new(3));
        world.spawn(|world| {
            assert_eq!(WakeReason::STOP, world.role.idle_monitor.park(WakeReason::WAKE, None));
        });
        for (number, reason) in
            [WakeReason::MONITOR, WakeReason::BLOCKED | WakeReason::WAKE, WakeReason::GRANT]
                .into_iter()
                .enumerate()
        {
            let me = world.ids[number + 1];
            world.spawn(move |world| {
                for _ in 0..2 {
                    assert_eq!(WakeReason::STOP, world.parker(me).park(reason, None));
                }
            });
        }
        world.role.stop_all();
    });
}
