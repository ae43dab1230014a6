//! The hooks: the methods of our own Python classes that native code calls by name.
//!
//! `threadlets/_hooks.py` declares the same methods as protocols, with what each of them does, and compares both
//! lists when it is imported.

use pyo3::intern;
use pyo3::prelude::*;

/// Declares hooks: a function for each, and the table `HOOKS` of their owners, names and numbers of arguments.
macro_rules! hooks {
    ($(
        $owner:literal:
        $(fn $function:ident = $method:literal($($arg:ident),*);)*
    )*) => {
        $($(
            pub(crate) fn $function<'py>(
                object: &Bound<'py, PyAny>,
                $($arg: impl IntoPyObject<'py>),*
            ) -> PyResult<Bound<'py, PyAny>> {
                object.call_method1(intern!(object.py(), $method), ($($arg,)*))
            }
        )*)*

        /// All hooks: owner, method, number of arguments.
        const HOOKS: &[(&str, &str, usize)] = &[
            $($(($owner, $method, <[&str]>::len(&[$(stringify!($arg)),*])),)*)*
        ];
    };
}

hooks! {
    "Dispatcher":
    fn dispatcher_stalls = "_dispatcher_stalls"(thread, waiting);
    fn orphaned = "_orphaned"();
    fn request_failed = "_request_failed"(error);
    fn state_changed = "_state_changed"(subject, changes, policy, is_threadlet);
    fn worker_joined = "_worker_joined"(number);
    fn worker_left = "_worker_left"();
    fn worker_starts = "_worker_starts"(number);

    "Loop":
    fn callback_failed = "_callback_failed"(error, callable, args, context);
    fn check_thread = "_check_thread"();
    fn descriptor_refused = "_descriptor_refused"(fd, error);
    fn detect_replaced = "_detect_replaced"();
    fn ensure_fd_no_transport = "_ensure_fd_no_transport"(fd);
    fn local_used = "_local_used"(how, object, name, before, after);
    fn lost_write = "_lost_write"(n_writes);
    fn make_debug_handle = "_make_debug_handle"(when, callback, args, context, method);
    fn process_events = "_process_events"(events);
    fn protocol_failed = "_protocol_failed"(error, protocol);
    fn request_begins = "_request_begins"(subject);
    fn request_ended = "_request_ended"(subject, before, duration);
    fn role_moved = "_role_moved"(blocked, thread);
    fn settle_signals = "_settle_signals"();
    fn sync_timers = "_sync_timers"();

    "HttpServer":
    fn accept_failed = "_accept_failed"(which, error);
    fn application_failed = "_application_failed"(error);
    fn log_requests = "_log_requests"(requests);

    "Transport":
    fn drained = "_drained"();
    fn fatal_error = "_fatal_error"(error, message);
    fn lose = "_lose"(error);
    fn pause_protocol = "_pause_protocol"();
    fn received_end = "_received_end"();
    fn resume_protocol = "_resume_protocol"();
}

/// Return the hooks, each with its owner ("Dispatcher", "Loop", "HttpServer", "Transport") and its number of arguments.
#[pyfunction]
pub(crate) fn hooks() -> Vec<(&'static str, &'static str, usize)> {
    HOOKS.to_vec()
}
