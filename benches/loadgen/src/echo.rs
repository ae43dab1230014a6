//! A closed loop: N connections, one message under way on each, the next sent when the echo is in.

use std::io;
use std::time::{Duration, Instant};

use mio::{Events, Poll};

use crate::args::Load;
use crate::exchange::{Buffers, Exchange, Progress};
use crate::report::{Meter, Report};

pub(crate) fn run(load: &Load) -> Result<Report, String> {
    let mut meter = Meter::new(load);
    let mut poll = Poll::new().map_err(|error| error.to_string())?;
    let mut connections = Vec::with_capacity(load.n_connections);
    let now = Instant::now();
    for idx in 0..load.n_connections {
        let exchange = Exchange::open(load.server, idx, idx, poll.registry())
            .map_err(|error| format!("connection {idx} of {}: {error}", load.n_connections))?;
        connections.push(Some((exchange, now)));
    }
    let elapsed = drive(load, &mut poll, &mut connections, &mut meter);
    elapsed.map_err(|error| error.to_string())?;
    meter.stop(None)
}

type Slot = Option<(Exchange, Instant)>;

fn drive(
    load: &Load,
    poll: &mut Poll,
    connections: &mut [Slot],
    meter: &mut Meter,
) -> io::Result<()> {
    let mut events = Events::with_capacity(load.n_connections.max(16));
    let mut buffers = Buffers::new(load.message_size);
    let mut n_alive = connections.len();
    let mut n_greeted = 0;
    let mut deadline = None;
    let mut warm = false;
    let give_up = Instant::now() + Duration::from_secs(30) + load.warmup + load.window;
    while n_alive > 0 {
        poll.poll(&mut events, Some(Duration::from_millis(20))).or_else(ignore_interrupt)?;
        for event in &events {
            let slot = &mut connections[event.token().0];
            let Some((exchange, sent_at)) = slot else {
                continue;
            };
            let step = exchange.advance(event.is_readable(), &mut buffers);
            let step: io::Result<()> = step.and_then(|progress| {
                if progress == Progress::Echoed {
                    let now = Instant::now();
                    meter.record(now - *sent_at);
                    *sent_at = now;
                    n_greeted += usize::from(exchange.is_first());
                    exchange.send_next(&mut buffers)?;
                }
                Ok(())
            });
            if let Err(error) = step {
                meter.fail(&error);
                *slot = None;
                n_alive -= 1;
            }
        }
        let now = Instant::now();
        match deadline {
            // The warm-up starts when every connection has had an echo.
            None if n_greeted >= n_alive => deadline = Some(now + load.warmup),
            Some(at) if now >= at && !warm => {
                warm = true;
                meter.start();
                deadline = Some(Instant::now() + load.window);
            }
            Some(at) if now >= at => return Ok(()),
            _ if now >= give_up => return Err(io::ErrorKind::TimedOut.into()),
            _ => {}
        }
    }
    Ok(())
}

pub(crate) fn ignore_interrupt(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::Interrupted {
        return Ok(());
    }
    Err(error)
}
