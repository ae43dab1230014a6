//! What was counted, and its JSON.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use crate::args::Load;
use crate::cpu::CpuTime;

/// Counts what happens between `start` and `stop`; the warm-up comes before.
pub(crate) struct Meter {
    server_pid: Option<u32>,
    started: Option<Start>,
    latencies_ns: Vec<u64>,
    errors: BTreeMap<String, u64>,
}

struct Start {
    at: Instant,
    server: CpuTime,
    load: CpuTime,
}

impl Meter {
    pub(crate) fn new(load: &Load) -> Self {
        Self {
            server_pid: load.server_pid,
            started: None,
            latencies_ns: Vec::with_capacity(1 << 20),
            errors: BTreeMap::new(),
        }
    }

    pub(crate) fn start(&mut self) {
        self.started = Some(Start {
            server: self.server_cpu(),
            load: CpuTime::of(std::process::id()),
            at: Instant::now(),
        });
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        if self.started.is_some() {
            self.latencies_ns.push(latency.as_nanos() as u64);
        }
    }

    /// Note an error, during the warm-up too: there must be none at any time.
    pub(crate) fn fail(&mut self, error: &io::Error) {
        *self.errors.entry(error.to_string()).or_default() += 1;
    }

    pub(crate) fn n_errors(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Stop counting. `busy` replaces the elapsed time where the load paused on purpose.
    pub(crate) fn stop(mut self, busy: Option<Duration>) -> Result<Report, String> {
        let server = self.server_cpu();
        let load = CpuTime::of(std::process::id());
        let start = self.started.ok_or(format!("nothing was measured: {:?}", self.errors))?;
        let elapsed = start.at.elapsed();
        self.latencies_ns.sort_unstable();
        Ok(Report {
            elapsed,
            busy: busy.unwrap_or(elapsed),
            latencies_ns: self.latencies_ns,
            errors: self.errors,
            server_cpu: server.since(start.server),
            load_cpu: load.since(start.load),
            burst_ms_p50: None,
        })
    }

    fn server_cpu(&self) -> CpuTime {
        self.server_pid.map_or(CpuTime::default(), CpuTime::of)
    }
}

pub(crate) struct Report {
    elapsed: Duration,
    busy: Duration,
    /// Sorted.
    latencies_ns: Vec<u64>,
    errors: BTreeMap<String, u64>,
    server_cpu: CpuTime,
    load_cpu: CpuTime,
    pub(crate) burst_ms_p50: Option<f64>,
}

impl Report {
    pub(crate) fn to_json(&self) -> String {
        let n_messages = self.latencies_ns.len();
        let per_message = |ns: u64| ns as f64 / 1e3 / n_messages.max(1) as f64;
        let elapsed_s = self.elapsed.as_secs_f64();
        let burst =
            self.burst_ms_p50.map_or(String::new(), |ms| format!("\"burst_ms_p50\":{ms:.3},"));
        let errors: Vec<String> =
            self.errors.iter().map(|(text, n)| format!("{text:?}:{n}")).collect();
        format!(
            concat!(
                "{{\"n_messages\":{},\"elapsed_s\":{:.6},\"messages_per_s\":{:.1},",
                "\"latency_us_p50\":{:.3},\"latency_us_p90\":{:.3},\"latency_us_p99\":{:.3},",
                "\"latency_us_max\":{:.3},{}\"server_cpu_us_per_message\":{:.4},",
                "\"server_busy\":{:.4},\"server_user_ticks\":{},\"server_system_ticks\":{},",
                "\"load_cpu_us_per_message\":{:.4},\"load_busy\":{:.4},",
                "\"n_errors\":{},\"errors\":{{{}}}}}"
            ),
            n_messages,
            elapsed_s,
            n_messages as f64 / self.busy.as_secs_f64(),
            self.latency_us(0.50),
            self.latency_us(0.90),
            self.latency_us(0.99),
            self.latency_us(1.0),
            burst,
            per_message(self.server_cpu.total_ns),
            self.server_cpu.total_ns as f64 / 1e9 / elapsed_s,
            self.server_cpu.user_ticks,
            self.server_cpu.system_ticks,
            per_message(self.load_cpu.total_ns),
            self.load_cpu.total_ns as f64 / 1e9 / elapsed_s,
            self.errors.values().sum::<u64>(),
            errors.join(","),
        )
    }

    /// The latency that `share` of the messages did not exceed (nearest rank).
    fn latency_us(&self, share: f64) -> f64 {
        let n = self.latencies_ns.len();
        let rank = ((share * n as f64).ceil() as usize).clamp(1, n.max(1));
        self.latencies_ns.get(rank - 1).map_or(0.0, |&ns| ns as f64 / 1e3)
    }
}
