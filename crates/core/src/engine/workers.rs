//! stub
use super::backend::*;
use super::inbox::Inbox;
use crate::error::Result;
use crate::syslet::Call;
use std::sync::Arc;
#[derive(Debug, Clone, Default)]
pub struct Simulation {
    pub seed: u64,
    pub error_rate: f64,
    pub short_rate: f64,
}
pub(crate) struct Workers;
impl Workers {
    pub(crate) fn new(_: &Arc<Inbox>) -> Result<Self> {
        todo!()
    }
}
impl Backend for Workers {
    fn start(&mut self, _: Key, _: Call) {
        todo!()
    }
    fn cancel(&mut self, _: Key) {
        todo!()
    }
    fn wait(&mut self, _: Option<u64>, _: &mut Vec<Completion>) {
        todo!()
    }
    fn now_ns(&self) -> u64 {
        todo!()
    }
    fn waits_for_readiness(&self) -> bool {
        true
    }
    fn tries_first(&self) -> bool {
        true
    }
}
