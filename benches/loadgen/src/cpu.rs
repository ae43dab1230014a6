//! CPU time used by the server and by this process, from /proc.

use std::fs;

#[derive(Clone, Copy, Default)]
pub(crate) struct CpuTime {
    /// Time on a CPU, all living threads, to the nanosecond (`schedstat`).
    pub(crate) total_ns: u64,
    /// The kernel's split, in clock ticks of 10 ms: good for a share, too coarse for a cost.
    pub(crate) user_ticks: u64,
    pub(crate) system_ticks: u64,
}

impl CpuTime {
    /// Read the time of a process; zero where /proc does not tell.
    pub(crate) fn of(pid: u32) -> Self {
        let (user_ticks, system_ticks) = ticks(pid).unwrap_or_default();
        let total_ns = run_ns(pid).unwrap_or((user_ticks + system_ticks) * 10_000_000);
        Self { total_ns, user_ticks, system_ticks }
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            total_ns: self.total_ns.saturating_sub(earlier.total_ns),
            user_ticks: self.user_ticks.saturating_sub(earlier.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(earlier.system_ticks),
        }
    }
}

fn run_ns(pid: u32) -> Option<u64> {
    let mut total_ns = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        total_ns += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(total_ns)
}

fn ticks(pid: u32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold spaces; it ends at the last parenthesis. Then utime is field 11.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}
