//! stub
use super::backend::*;
use super::inbox::Inbox;
use crate::syslet::Call;
use std::sync::Arc;
pub(crate) struct Hands;
impl Hands {
    pub(crate) fn new(_: &Arc<Inbox>) -> Self {
        Self
    }
    pub(crate) fn start(&mut self, _: Key, _: Call) {
        todo!()
    }
    pub(crate) fn cancel(&mut self, _: Key) {}
    pub(crate) fn collect(&mut self, _: &mut Vec<Completion>) {}
}
