//! A new connection per message: N at a time for ever (churn), or N at once and then a pause
//! (burst). The client closes first.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use mio::{Events, Poll};

use crate::args::Load;
use crate::echo::ignore_interrupt;
use crate::exchange::{Buffers, Exchange, Progress};
use crate::report::{Meter, Report};

/// Above this, something is broken rather than slow.
const N_ERRORS_MAX: u64 = 1000;
/// Three SYN retransmissions (1 + 2 + 4 s) fit.
const STALL_MAX: Duration = Duration::from_secs(10);

/// Keep N connections busy; each is replaced as soon as its echo is in. A latency runs from
/// `connect` to the whole echo.
pub(crate) fn run_churn(load: &Load) -> Result<Report, String> {
    let mut pool = Pool::new(load).map_err(|error| error.to_string())?;
    for idx in 0..load.n_connections {
        pool.open(idx);
    }
    for (window, measured) in [(load.warmup, false), (load.window, true)] {
        if measured {
            pool.meter.start();
        }
        let until = Instant::now() + window;
        while Instant::now() < until {
            pool.turn(true)?;
        }
    }
    pool.meter.stop(None)
}

/// Open N connections at once, wait for N echoes, close all, pause; repeat. Latencies run from the
/// start of the burst; messages/s counts the bursts and not the pauses.
pub(crate) fn run_burst(load: &Load) -> Result<Report, String> {
    let mut pool = Pool::new(load).map_err(|error| error.to_string())?;
    pool.burst()?;
    pool.meter.start();
    let until = Instant::now() + load.window;
    let mut bursts = Vec::new();
    while bursts.is_empty() || Instant::now() < until {
        // The server tidies up the last burst meanwhile.
        thread::sleep(Duration::from_millis(50));
        bursts.push(pool.burst()?);
    }
    let mut report = pool.meter.stop(Some(bursts.iter().sum()))?;
    bursts.sort_unstable();
    report.burst_ms_p50 = Some(bursts[bursts.len() / 2].as_secs_f64() * 1e3);
    Ok(report)
}

struct Pool<'a> {
    load: &'a Load,
    poll: Poll,
    events: Events,
    buffers: Buffers,
    slots: Vec<Option<(Exchange, Instant)>>,
    /// Echoed and kept open until the burst is over.
    finished: Vec<Exchange>,
    n_open: usize,
    n_opened: usize,
    last_progress: Instant,
    meter: Meter,
}

impl<'a> Pool<'a> {
    fn new(load: &'a Load) -> io::Result<Self> {
        Ok(Self {
            load,
            poll: Poll::new()?,
            events: Events::with_capacity(load.n_connections.max(16)),
            buffers: Buffers::new(load.message_size),
            slots: (0..load.n_connections).map(|_| None).collect(),
            finished: Vec::new(),
            n_open: 0,
            n_opened: 0,
            last_progress: Instant::now(),
            meter: Meter::new(load),
        })
    }

    fn burst(&mut self) -> Result<Duration, String> {
        let started = Instant::now();
        for idx in 0..self.slots.len() {
            self.open(idx);
            if let Some((_, at)) = &mut self.slots[idx] {
                *at = started;
            }
        }
        while self.n_open > 0 {
            self.turn(false)?;
        }
        let duration = started.elapsed();
        self.finished.clear();
        Ok(duration)
    }

    fn open(&mut self, idx: usize) {
        let at = Instant::now();
        self.n_opened += 1;
        match Exchange::open(self.load.server, idx, self.n_opened, self.poll.registry()) {
            Ok(exchange) => {
                self.slots[idx] = Some((exchange, at));
                self.n_open += 1;
            }
            Err(error) => self.meter.fail(&error),
        }
    }

    fn turn(&mut self, reopen: bool) -> Result<(), String> {
        self.poll
            .poll(&mut self.events, Some(Duration::from_millis(20)))
            .or_else(ignore_interrupt)
            .map_err(|error| error.to_string())?;
        let mut ended = Vec::new();
        for event in &self.events {
            let idx = event.token().0;
            // A stale event for a connection that ended finds an empty slot.
            let Some((exchange, started_at)) = &mut self.slots[idx] else {
                continue;
            };
            match exchange.advance(event.is_readable(), &mut self.buffers) {
                Ok(Progress::Pending) => continue,
                Ok(Progress::Echoed) => self.meter.record(started_at.elapsed()),
                Err(error) => self.meter.fail(&error),
            }
            let slot = self.slots[idx].take();
            self.n_open -= 1;
            ended.push(idx);
            if !reopen {
                self.finished.extend(slot.map(|(exchange, _)| exchange));
            }
        }
        if !ended.is_empty() {
            self.last_progress = Instant::now();
        }
        if reopen {
            for idx in ended {
                self.open(idx);
            }
            if self.n_open == 0 {
                (0..self.slots.len()).for_each(|idx| self.open(idx));
            }
        }
        self.check_health()
    }

    fn check_health(&self) -> Result<(), String> {
        if self.last_progress.elapsed() > STALL_MAX {
            return Err(format!("{} connections made no progress", self.n_open));
        }
        if self.meter.n_errors() > N_ERRORS_MAX {
            return Err(format!("more than {N_ERRORS_MAX} connections failed"));
        }
        Ok(())
    }
}
