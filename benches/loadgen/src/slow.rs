//! Slow readers: N at a time, each on a connection of its own, until M answers are there, or the time is
//! over. A reader takes a part of the answer and pauses before the next, so that the server cannot send at once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mio::{Events, Poll};

use crate::args::Load;
use crate::echo::ignore_interrupt;
use crate::http::{Asking, Taken, Visit};
use crate::report::{Meter, Report};

/// Three SYN retransmissions (1 + 2 + 4 s) fit.
const STALL_MAX: Duration = Duration::from_secs(20);
const POLL_MAX: Duration = Duration::from_millis(20);

/// Latencies run from `connect` to the last byte.
pub(crate) fn run(load: &Load) -> Result<Report, String> {
    let mut readers = Readers::new(load).map_err(|error| error.to_string())?;
    readers.meter.start();
    for idx in 0..load.n_connections.min(load.http.n_total) {
        readers.open(idx);
    }
    let until = Instant::now() + load.window;
    while readers.n_ended < load.http.n_total && Instant::now() < until {
        readers.turn()?;
    }
    readers.meter.stop(None)
}

struct Reader {
    visit: Visit,
    /// Which of all the readers it is: a slot has many, one after the other.
    turn: usize,
    opened_at: Instant,
    /// Whether it is among those that pause.
    is_pausing: bool,
}

struct Readers<'a> {
    load: &'a Load,
    poll: Poll,
    events: Events,
    asking: Asking,
    slots: Vec<Option<Reader>>,
    /// When to read next, the slot, and the turn of its reader. All pause equally long, so the order
    /// of the queue is that of time.
    pausing: VecDeque<(Instant, usize, usize)>,
    n_opened: usize,
    n_ended: usize,
    last_progress: Instant,
    meter: Meter,
}

impl<'a> Readers<'a> {
    fn new(load: &'a Load) -> std::io::Result<Self> {
        Ok(Self {
            load,
            poll: Poll::new()?,
            events: Events::with_capacity(load.n_connections.max(16)),
            asking: Asking::new(load, false),
            slots: (0..load.n_connections).map(|_| None).collect(),
            pausing: VecDeque::new(),
            n_opened: 0,
            n_ended: 0,
            last_progress: Instant::now(),
            meter: Meter::new(load),
        })
    }

    fn open(&mut self, idx: usize) {
        while self.n_opened < self.load.http.n_total {
            let turn = self.n_opened;
            self.n_opened += 1;
            let opened_at = Instant::now();
            match Visit::open(self.load, idx, turn, self.poll.registry()) {
                Ok(visit) => {
                    self.slots[idx] = Some(Reader { visit, turn, opened_at, is_pausing: false });
                    return;
                }
                Err(error) => {
                    self.meter.fail(&error);
                    self.n_ended += 1;
                }
            }
        }
    }

    fn turn(&mut self) -> Result<(), String> {
        let now = Instant::now();
        let wait = self
            .pausing
            .front()
            .map_or(POLL_MAX, |(due, ..)| due.saturating_duration_since(now).min(POLL_MAX));
        self.poll
            .poll(&mut self.events, Some(wait))
            .or_else(ignore_interrupt)
            .map_err(|error| error.to_string())?;
        let due = Instant::now() + self.load.http.pause;
        let mut failed = Vec::new();
        for event in &self.events {
            let idx = event.token().0;
            let Some(reader) = &mut self.slots[idx] else {
                continue;
            };
            if event.is_writable()
                && let Err(error) = reader.visit.ask(&self.asking)
            {
                failed.push((idx, error));
                continue;
            }
            if event.is_readable() && !reader.is_pausing {
                reader.is_pausing = true;
                self.pausing.push_back((due, idx, reader.turn));
            }
        }
        for (idx, error) in failed {
            self.end(idx, Some(error));
        }
        self.read_those_due();
        if self.last_progress.elapsed() > STALL_MAX {
            return Err(format!(
                "no answer for {} s; {} of {} have come",
                STALL_MAX.as_secs(),
                self.n_ended,
                self.load.http.n_total
            ));
        }
        Ok(())
    }

    fn read_those_due(&mut self) {
        let now = Instant::now();
        while let Some(&(due, idx, turn)) = self.pausing.front()
            && due <= now
        {
            self.pausing.pop_front();
            let Some(reader) = &mut self.slots[idx] else {
                continue;
            };
            if reader.turn != turn {
                continue;
            }
            match reader.visit.take(&mut self.asking) {
                Ok(Taken::Nothing) => reader.is_pausing = false,
                Ok(Taken::Part) => {
                    self.pausing.push_back((Instant::now() + self.load.http.pause, idx, turn));
                }
                Ok(Taken::All) => self.end(idx, None),
                Err(error) => self.end(idx, Some(error)),
            }
        }
    }

    /// Close a reader's connection, and let the next reader begin in its place.
    fn end(&mut self, idx: usize, error: Option<std::io::Error>) {
        let Some(reader) = self.slots[idx].take() else {
            return;
        };
        match error {
            None => self.meter.record(reader.opened_at.elapsed()),
            Some(error) => self.meter.fail(&error),
        }
        self.n_ended += 1;
        self.last_progress = Instant::now();
        drop(reader);
        self.open(idx);
    }
}
