//! What servers have counted, in Python, and the memory in which the processes of a service count.

use std::os::fd::{AsFd, AsRawFd};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use threadlets_core::Error;
use threadlets_http::metrics::{Counter, Metrics, SharedMetrics, Slot, TIME_BOUNDS_US};

use crate::py::error::to_python;

/// The counters of all processes of a service: a file in memory, which processes inherit, with a slot for each.
#[pyclass(frozen, module = "threadlets._core")]
#[derive(Debug)]
pub(crate) struct HttpCounts(SharedMetrics);

impl HttpCounts {
    /// The counters of one process.
    pub(super) fn slot(&self, number: u64) -> PyResult<Slot> {
        self.0.slot(number).map_err(|errno| to_python(Error::new("mmap", errno)))
    }
}

#[pymethods]
impl HttpCounts {
    /// Make the memory, or take that of an inherited descriptor, which is duplicated.
    #[new]
    #[pyo3(signature = (fd=None))]
    fn new(fd: Option<i32>) -> PyResult<Self> {
        let opened = fd.map_or_else(SharedMetrics::create, SharedMetrics::open);
        opened.map(Self).map_err(|errno| to_python(Error::new("memfd_create", errno)))
    }

    /// The descriptor of the memory.
    fn fileno(&self) -> i32 {
        self.0.as_fd().as_raw_fd()
    }

    /// Have at least so many slots. One process does this, before others use them.
    fn reserve(&self, n_slots: u64) -> PyResult<()> {
        self.0.reserve(n_slots).map_err(|errno| to_python(Error::new("ftruncate", errno)))
    }

    /// The process of a slot is gone: nothing of it is open or in flight any more.
    fn settle(&self, slot: u64) -> PyResult<()> {
        self.slot(slot)?.settle();
        Ok(())
    }

    /// The sums over all slots, as `HttpServer.metrics` has those of one server.
    fn total<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let total = self.0.total().map_err(|errno| to_python(Error::new("mmap", errno)))?;
        as_dict(py, &total)
    }
}

/// Numbers by name, and lists for responses by the first digit of their status and by the time that they took.
pub(super) fn as_dict<'py>(py: Python<'py>, metrics: &Metrics) -> PyResult<Bound<'py, PyDict>> {
    let counts = PyDict::new(py);
    for (name, count) in metrics.counters() {
        counts.set_item(name, count)?;
    }
    let list = |it: &[Counter]| -> Vec<u64> { it.iter().map(Counter::get).collect() };
    counts.set_item("responses", list(&metrics.responses))?;
    counts.set_item("response_times", list(&metrics.response_times))?;
    counts.set_item("response_time_us", metrics.response_time_us.get())?;
    counts.set_item("response_time_bounds_us", TIME_BOUNDS_US)?;
    counts.set_item("connections", metrics.n_connections())?;
    counts.set_item("in_flight", metrics.n_in_flight())?;
    Ok(counts)
}
