//! Cost of protecting a call: `enter` and `leave` around a function, compared with the function alone.
//!
//! `cargo bench -p threadlets-core`; medians of many laps, in nanoseconds a call.

use std::hint::black_box;
use std::time::Instant;

use threadlets_core::takeover::{Called, Monitoring, Role, WorkerId, WorkerRegistry};

const N_CALLS: u32 = 100_000;
const N_LAPS: usize = 201;

#[inline(never)]
fn function(argument: u64) -> u64 {
    argument.wrapping_mul(3)
}

fn median_ns(mut lap: impl FnMut()) -> f64 {
    let mut laps: Vec<f64> = (0..N_LAPS)
        .map(|_| {
            let started = Instant::now();
            lap();
            started.elapsed().as_nanos() as f64 / f64::from(N_CALLS)
        })
        .collect();
    laps.sort_by(f64::total_cmp);
    laps[N_LAPS / 2]
}

fn main() {
    let (role, mut registry) = (Role::new(1), WorkerRegistry::new(1));
    role.take(&mut registry, WorkerId::HOME);
    // From here on every call counts as watched: nothing clears the bits of `Awake`.
    if let Called::Unmonitored(seq) = role.enter(WorkerId::HOME) {
        assert!(matches!(role.ensure_monitor(&mut registry), Monitoring::Spawn(_)));
        role.leave(WorkerId::HOME, seq);
    }
    let direct_ns = median_ns(|| {
        for argument in 0..u64::from(N_CALLS) {
            black_box(function(black_box(argument)));
        }
    });
    let protected_ns = median_ns(|| {
        for argument in 0..u64::from(N_CALLS) {
            let Called::Monitored(seq) = role.enter(WorkerId::HOME) else { unreachable!() };
            black_box(function(black_box(argument)));
            assert!(role.leave(WorkerId::HOME, seq));
        }
    });
    println!(
        "direct {direct_ns:.2} ns, protected {protected_ns:.2} ns: {:.2} ns more",
        protected_ns - direct_ns
    );
}
