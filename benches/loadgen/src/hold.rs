//! Connections that stay open: each has had one answer and is idle, or has asked and reads nothing.
//! Somebody else looks at the server meanwhile.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use mio::{Events, Poll};

use crate::args::Load;
use crate::echo::ignore_interrupt;
use crate::http::{Asking, Taken, Visit};

/// No server's backlog overflows.
const N_OPENING_MAX: usize = 100;
const TIME_MAX: Duration = Duration::from_secs(60);

/// Open all, print `{"n_open": N}`, and close them when the standard input ends.
pub(crate) fn run(load: &Load) -> Result<(), String> {
    let visits = open_all(load).map_err(|error| error.to_string())?;
    println!("{{\"n_open\": {}}}", visits.len());
    io::stdin().read_to_end(&mut Vec::new()).map_err(|error| error.to_string())?;
    Ok(())
}

fn open_all(load: &Load) -> io::Result<Vec<Visit>> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut asking = Asking::new(load, true);
    let mut visits: Vec<Visit> = Vec::with_capacity(load.n_connections);
    let mut is_there = vec![false; load.n_connections];
    let mut n_there = 0;
    let give_up = Instant::now() + TIME_MAX;
    while n_there < load.n_connections {
        while visits.len() < load.n_connections && visits.len() - n_there < N_OPENING_MAX {
            let idx = visits.len();
            visits.push(Visit::open(load, idx, idx, poll.registry())?);
        }
        poll.poll(&mut events, Some(Duration::from_millis(20))).or_else(ignore_interrupt)?;
        for event in &events {
            let idx = event.token().0;
            let visit = &mut visits[idx];
            if event.is_writable() {
                visit.ask(&asking)?;
            }
            if event.is_readable() && !is_there[idx] {
                is_there[idx] = load.http.is_stalled || is_answered(visit, &mut asking)?;
                n_there += usize::from(is_there[idx]);
            }
        }
        if Instant::now() > give_up {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(visits)
}

/// Read what there is; return whether that completes the answer.
fn is_answered(visit: &mut Visit, asking: &mut Asking) -> io::Result<bool> {
    loop {
        match visit.take(asking)? {
            Taken::Part => {}
            Taken::All => return Ok(true),
            Taken::Nothing => return Ok(false),
        }
    }
}
