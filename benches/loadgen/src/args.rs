//! The command line. No parser crate: a dozen options of one form do not pay for one.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

const COMMANDS: &str = "echo, churn, burst, slow, hold or serve";

pub(crate) enum Command {
    Echo(Load),
    Churn(Load),
    Burst(Load),
    Slow(Load),
    Hold(Load),
    Serve,
}

/// What to send, where to, and for how long.
pub(crate) struct Load {
    pub(crate) server: SocketAddr,
    pub(crate) n_connections: usize,
    pub(crate) message_size: usize,
    pub(crate) warmup: Duration,
    pub(crate) window: Duration,
    pub(crate) server_pid: Option<u32>,
    pub(crate) http: Http,
}

/// What the loads that speak HTTP ask for, and how they read; the answer has `message_size` bytes.
pub(crate) struct Http {
    pub(crate) path: String,
    /// How many answers end a run.
    pub(crate) n_total: usize,
    /// The most that one read takes, in bytes, and the pause before the next one.
    pub(crate) read_max: usize,
    pub(crate) pause: Duration,
    /// The kernel's receive buffer of a connection, in bytes; it takes twice as many.
    pub(crate) receive_buffer: Option<usize>,
    /// Read nothing of the answer.
    pub(crate) is_stalled: bool,
}

pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Command, String> {
    let name = args.next().ok_or(format!("a command is missing: {COMMANDS}"))?;
    if name == "serve" {
        return Ok(Command::Serve);
    }
    let mut load = Load {
        server: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        n_connections: 1,
        message_size: 1024,
        warmup: Duration::from_millis(500),
        window: Duration::from_secs(2),
        server_pid: None,
        http: Http {
            path: "/".to_owned(),
            n_total: 1,
            read_max: 16 * 1024,
            pause: Duration::ZERO,
            receive_buffer: None,
            is_stalled: false,
        },
    };
    while let Some(option) = args.next() {
        let value = args.next().ok_or(format!("{option} has no value"))?;
        match option.as_str() {
            "--port" => load.server.set_port(number(&option, &value)?),
            "--connections" => load.n_connections = number(&option, &value)?,
            "--size" => load.message_size = number(&option, &value)?,
            "--warmup-s" => load.warmup = seconds(&option, &value)?,
            "--seconds" => load.window = seconds(&option, &value)?,
            "--server-pid" => load.server_pid = Some(number(&option, &value)?),
            "--path" => load.http.path = value,
            "--total" => load.http.n_total = number(&option, &value)?,
            "--read" => load.http.read_max = number(&option, &value)?,
            "--pause-s" => load.http.pause = seconds(&option, &value)?,
            "--receive-buffer" => load.http.receive_buffer = Some(number(&option, &value)?),
            "--stalled" => load.http.is_stalled = number::<u8>(&option, &value)? != 0,
            _ => return Err(format!("{option} is not an option")),
        }
    }
    if load.server.port() == 0 {
        return Err("--port is missing".to_owned());
    }
    if load.n_connections == 0 || load.message_size < 16 {
        return Err("--connections must be at least 1 and --size at least 16".to_owned());
    }
    match name.as_str() {
        "echo" => Ok(Command::Echo(load)),
        "churn" => Ok(Command::Churn(load)),
        "burst" => Ok(Command::Burst(load)),
        "slow" => Ok(Command::Slow(load)),
        "hold" => Ok(Command::Hold(load)),
        _ => Err(format!("{name} is not a command: {COMMANDS}")),
    }
}

fn number<T: std::str::FromStr>(option: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{option} wants a whole number, not {value:?}"))
}

fn seconds(option: &str, value: &str) -> Result<Duration, String> {
    let seconds: f64 =
        value.parse().map_err(|_| format!("{option} wants seconds, not {value:?}"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| format!("{option}: {error}"))
}
