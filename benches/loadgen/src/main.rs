//! The load side of the socket benchmarks. Knows nothing of Python or of the loop under test:
//! it opens connections to 127.0.0.1, sends messages, checks what comes back, prints one JSON line.
//!
//! ```text
//! loadgen echo  --port P --connections N [--size 1024] [--warmup-s 0.5] [--seconds 2] [--server-pid PID]
//! loadgen churn --port P --connections N [...]   a new connection per message, N at a time
//! loadgen burst --port P --connections N [...]   N connects at once, again and again
//! loadgen serve                                  the least an echo server can do: the ceiling
//! loadgen slow  --port P --connections N --total M --size BYTES --path PATH [--seconds 2] [--read 16384]
//!               [--pause-s 0] [--receive-buffer BYTES]
//!               M answers of HTTP, N slow readers at a time, for so many seconds at most
//! loadgen hold  --port P --connections N --size BYTES --path PATH [--stalled 1]
//!               N connections that stay open after an answer, or in the middle of one
//! ```

mod args;
mod churn;
mod cpu;
mod echo;
mod exchange;
mod hold;
mod http;
mod report;
mod serve;
mod slow;

use std::process::ExitCode;

use args::{Command, Load};

fn main() -> ExitCode {
    let command = match args::parse(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(message) => {
            eprintln!("loadgen: {message}");
            return ExitCode::from(2);
        }
    };
    let outcome = match command {
        Command::Echo(load) => print(&load, echo::run),
        Command::Churn(load) => print(&load, churn::run_churn),
        Command::Burst(load) => print(&load, churn::run_burst),
        Command::Slow(load) => print(&load, slow::run),
        Command::Hold(load) => hold::run(&load),
        Command::Serve => serve::run().map_err(|error| error.to_string()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("loadgen: {message}");
            ExitCode::FAILURE
        }
    }
}

fn print(load: &Load, run: impl Fn(&Load) -> Result<report::Report, String>) -> Result<(), String> {
    println!("{}", run(load)?.to_json());
    Ok(())
}
