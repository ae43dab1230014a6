//! Tasks that belong to a thread, and items of engines, under the model checker, while the role changes hands.

use std::rc::Rc;

use threadlets_core::mpsc_queue::MpscQueue;
use threadlets_core::takeover::{Parker, WakeReason, WorkerId};

use crate::beside::{go_on, job, release, run};
use crate::life::{Doing, Item, Slip};
use crate::world::{HOME, Held, Outcome, Request, World};

/// Take a step of a task that belongs to this thread.
fn step(owner: WorkerId, then: impl FnOnce(&mut Held<'_>) + 'static) -> Request {
    Box::new(move |held| {
        assert_eq!(owner, held.me);
        held.work();
        held.world.went_on();
        then(held);
    })
}

/// A thread to which something belongs, and that waits.
fn spawn_tied(world: &Rc<World>) -> WorkerId {
    let id = world.appoint(&mut world.lock.lock().unwrap());
    world.role.relieve();
    world.does(id, Doing::Tied);
    world.bound.borrow_mut().tie(id);
    world.spawn(move |world| world.live(id));
    id
}

/// Steps of two tasks, one of which belongs to another thread, are taken once each where they belong.
#[test]
fn steps_are_taken_by_the_thread_to_which_their_tasks_belong() {
    run(3, 1, 3, None, |world| {
        let owner = spawn_tied(world);
        world.submit_step(owner, step(owner, |_| ()));
        world.submit_step(HOME, step(HOME, |_| ()));
        world.submit_step(owner, step(owner, |_| ()));
    });
}

/// A step of home's comes while home is in a function that blocks: it is taken when home has the role again.
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
            held.world.went_on();
        });
        world.submit_step(HOME, step(HOME, |_| ()));
        world.submit(move |_| opens.unpark(WakeReason::WAKE));
    });
}

/// A task's last step sets its thread free, which then stands by, or watches a call, or works.
fn a_thread_is_set_free(slip: Option<Slip>) {
    run(2, 2, 3, slip, |world| {
        let owner = spawn_tied(world);
        world.submit_step(owner, step(owner, move |held| held.untie(owner)));
        world.submit(|held| {
            held.work();
            let settles: Request = Box::new(|held| {
                held.world.went_on();
                held.call(|held| held.release(|| ()));
                held.world.went_on();
            });
            held.submit_beside(job(release(), settles));
        });
    });
}

#[test]
fn a_thread_that_is_set_free_stands_by_and_is_called_once() {
    a_thread_is_set_free(None);
}

#[test]
#[should_panic]
fn a_thread_that_stands_by_though_called_is_called_twice() {
    a_thread_is_set_free(Some(Slip::StandsByThoughCalled));
}

/// A thread that is set free is called for work just when it learns of that, and does not stand by while it works.
#[test]
fn a_thread_that_is_set_free_works_or_stands_by() {
    run(2, 1, 2, None, |world| {
        let owner = spawn_tied(world);
        world.submit_step(
            owner,
            step(owner, move |held| {
                held.untie(owner);
                held.submit(|held| held.submit_beside(job(release(), go_on())));
            }),
        );
    });
}

/// While something belongs to a thread it is called for no work.
#[test]
fn a_thread_to_which_something_belongs_does_no_other_work() {
    run(2, 2, 3, None, |world| {
        let owner = spawn_tied(world);
        world.submit_step(
            owner,
            step(owner, |held| {
                let again: Request = Box::new(|held| {
                    held.world.went_on();
                    held.submit_beside(job(release(), go_on()));
                });
                held.submit(|held| held.submit_beside(job(release(), again)));
            }),
        );
    });
}

/// Another thread sets a thread free to which nothing belongs any more.
#[test]
fn a_thread_that_another_sets_free_stands_by() {
    run(3, 1, 2, None, |world| {
        let owner = spawn_tied(world);
        world.submit(move |held| {
            held.untie(owner);
            held.world.went_on();
            held.submit_beside(job(release(), go_on()));
        });
    });
}

/// A step fails so that the role goes on to home, which is to end the loop, and another one is left.
fn a_step_fails(slip: Option<Slip>) {
    run(3, 1, 2, slip, |world| {
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
fn who_waits_with_steps_to_take_waits_for_ever() {
    a_step_fails(Some(Slip::WaitsWithStepsToTake));
}

/// An engine sends items while a function returns and takes the role from a dispatcher that waits for them.
#[test]
fn letters_are_opened_once_while_the_role_changes_hands() {
    run(2, 1, 3, None, |world| {
        let items = Rc::new(MpscQueue::default());
        world.completions.replace(Some(Rc::clone(&items)));
        let first = world.ids[1];
        crate::lose_in_call(world, HOME, first);
        let seq = crate::lose_in_call(world, first, HOME);
        world.spawn(move |world| crate::return_to_worker(world, first, seq));
        world.spawn(move |world| {
            for _ in 0..2 {
                let item = Item(Box::new(|held| held.world.went_on()));
                if items.push(item).is_ok_and(|wakes| wakes) {
                    world.poller.unpark(WakeReason::WAKE);
                }
            }
        });
    });
}
