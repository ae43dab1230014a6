//! Tasks that belong to a thread, and items that engines send, under the model checker while the role moves.

use std::rc::Rc;

use threadlets_core::mpsc_queue::MpscQueue;
use threadlets_core::takeover::{Parker, WakeReason, WorkerId};

use crate::beside::{job, release, resume, run};
use crate::life::{Doing, Fault, Item};
use crate::world::{HOME, Held, Outcome, Request, World};

/// A step of a task that belongs to `owner`; `then` runs at its end.
fn step(owner: WorkerId, then: impl FnOnce(&mut Held<'_>) + 'static) -> Request {
    Box::new(move |held| {
        assert_eq!(owner, held.me);
        held.work();
        held.world.note_resumed();
        then(held);
    })
}

/// Start a thread to which something belongs, and that waits.
fn spawn_tied(world: &Rc<World>) -> WorkerId {
    let id = world.appoint(&mut world.lock.lock().unwrap());
    world.role.clear_monitor();
    world.note_doing(id, Doing::Tied);
    world.bound.borrow_mut().add_binding(id);
    world.spawn(move |world| world.run_worker(id));
    id
}

/// Steps of two tasks, one of which belongs to another thread, are taken once each, on their own threads.
#[test]
fn steps_are_taken_by_the_thread_to_which_their_tasks_belong() {
    run(3, 1, 3, None, |world| {
        let owner = spawn_tied(world);
        world.submit_step(owner, step(owner, |_| ()));
        world.submit_step(HOME, step(HOME, |_| ()));
        world.submit_step(owner, step(owner, |_| ()));
    });
}

/// A step that belongs to home comes while home is blocked in a function: it is taken when home has the role
/// again.
#[test]
fn a_step_waits_for_home_while_home_is_blocked() {
    run(3, 1, 2, None, |world| {
        let opened = Rc::new(Parker::default());
        let opens = Rc::clone(&opened);
        world.submit(move |held| {
            let outcome = held.call(move |held| {
                held.release(|| opened.park(WakeReason::WAKE, None));
            });
            assert_eq!(Outcome::Lost, outcome);
            held.world.note_resumed();
        });
        world.submit_step(HOME, step(HOME, |_| ()));
        world.submit(move |_| opens.unpark(WakeReason::WAKE));
    });
}

/// A task's last step releases its thread, which then is idle, or watches a call, or runs a job.
fn a_thread_is_released(fault: Option<Fault>) {
    run(2, 2, 3, fault, |world| {
        let owner = spawn_tied(world);
        world.submit_step(owner, step(owner, move |held| held.remove_binding(owner)));
        world.submit(|held| {
            held.work();
            let settles: Request = Box::new(|held| {
                held.world.note_resumed();
                held.call(|held| held.release(|| ()));
                held.world.note_resumed();
            });
            held.submit_beside(job(release(), settles));
        });
    });
}

#[test]
fn a_thread_that_is_released_is_idle_and_is_called_once() {
    a_thread_is_released(None);
}

#[test]
#[should_panic(expected = "takes over and is idle")]
fn a_thread_that_becomes_idle_though_called_is_called_twice() {
    a_thread_is_released(Some(Fault::BecomesIdleThoughCalled));
}

/// A thread is called for a job just when it learns that it is released: it is not idle while it works.
#[test]
fn a_thread_that_is_released_works_or_is_idle() {
    run(2, 1, 2, None, |world| {
        let owner = spawn_tied(world);
        world.submit_step(
            owner,
            step(owner, move |held| {
                held.remove_binding(owner);
                held.submit(|held| held.submit_beside(job(release(), resume())));
            }),
        );
    });
}

/// A thread to which something belongs is called for no job.
#[test]
fn a_thread_to_which_something_belongs_does_no_other_work() {
    run(2, 2, 3, None, |world| {
        let owner = spawn_tied(world);
        world.submit_step(
            owner,
            step(owner, |held| {
                let again: Request = Box::new(|held| {
                    held.world.note_resumed();
                    held.submit_beside(job(release(), resume()));
                });
                held.submit(|held| held.submit_beside(job(release(), again)));
            }),
        );
    });
}

/// Another thread releases a thread.
#[test]
fn a_thread_that_another_releases_becomes_idle() {
    run(3, 1, 2, None, |world| {
        let owner = spawn_tied(world);
        world.submit(move |held| {
            held.remove_binding(owner);
            held.world.note_resumed();
            held.submit_beside(job(release(), resume()));
        });
    });
}

/// A step fails while another one is left: the role goes to home, which is to end the loop.
fn a_step_fails(fault: Option<Fault>) {
    run(3, 1, 2, fault, |world| {
        let owner = spawn_tied(world);
        world.submit_step(owner, step(owner, |held| held.world.fails.set(true)));
        world.submit_step(owner, step(owner, |_| ()));
    });
}

#[test]
fn steps_that_are_left_when_one_fails_are_taken() {
    a_step_fails(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_thread_that_waits_with_steps_to_take_waits_for_ever() {
    a_step_fails(Some(Fault::WaitsWithStepsToTake));
}

/// An engine sends items while a function returns and takes the role from a dispatcher that waits for them.
#[test]
fn items_are_taken_once_while_the_role_changes_hands() {
    run(2, 1, 3, None, |world| {
        let items = Rc::new(MpscQueue::default());
        world.completions.replace(Some(Rc::clone(&items)));
        let first = world.ids[1];
        crate::lose_in_call(world, HOME, first);
        let seq = crate::lose_in_call(world, first, HOME);
        world.spawn(move |world| crate::return_to_worker(world, first, seq));
        world.spawn(move |world| {
            for _ in 0..2 {
                let item = Item(Box::new(|held| held.world.note_resumed()));
                if items.push(item).is_ok_and(|wakes| wakes) {
                    world.poller.unpark(WakeReason::WAKE);
                }
            }
        });
    });
}
