//! Cost of comparing a thread's floating-point state, of restoring it, and of clearing `errno`.
//!
//! `cargo bench -p threadlets-core --bench fp_state`; medians of many laps, in nanoseconds.

use std::hint::black_box;
use std::time::Instant;

use threadlets_core::fp::{Rounding, State};

const N_TIMES: u32 = 100_000;
const N_LAPS: usize = 201;

fn median_ns(mut once: impl FnMut()) -> f64 {
    let mut laps: Vec<f64> = (0..N_LAPS)
        .map(|_| {
            let started = Instant::now();
            for _ in 0..N_TIMES {
                once();
            }
            started.elapsed().as_nanos() as f64 / f64::from(N_TIMES)
        })
        .collect();
    laps.sort_by(f64::total_cmp);
    laps[N_LAPS / 2]
}

fn main() {
    let nothing_ns = median_ns(|| {
        black_box(());
    });
    let compare_ns = median_ns(|| assert!(black_box(State::read()) == State::DEFAULT));
    let upward = State::DEFAULT.with_rounding(Rounding::Upward);
    let restore_ns = median_ns(|| {
        upward.restore();
        State::DEFAULT.restore();
    }) / 2.0;
    let clear_ns = median_ns(threadlets_core::errno::clear);
    println!(
        "comparing {:.2} ns, restoring {:.2} ns, clearing errno {:.2} ns",
        compare_ns - nothing_ns,
        restore_ns - nothing_ns,
        clear_ns - nothing_ns
    );
}
