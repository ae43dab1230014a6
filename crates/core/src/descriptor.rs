//! A descriptor that somebody else owns and watches: callbacks, and operations that wait.
//!
//! Callbacks (`add_reader`) want levels: they are called again until they have taken what there
//! is. Operations (`sock_recv`) were tried before they wait, so an edge is all they need, and
//! their descriptor stays registered from one operation to the next. One watch serves both.

use std::collections::VecDeque;
use std::os::fd::RawFd;

use crate::poller::Interest;

/// One direction of a watched descriptor.
#[derive(Debug)]
pub struct Half<H, W> {
    /// Called whenever the descriptor is ready in this direction.
    pub handler: Option<H>,
    /// Operations that wait for this direction, first come first served.
    pub waiting: VecDeque<W>,
}

impl<H, W> Default for Half<H, W> {
    fn default() -> Self {
        Self { handler: None, waiting: VecDeque::new() }
    }
}

/// A descriptor; `H` is a callback, `W` a waiting operation.
#[derive(Debug)]
pub struct Descriptor<H, W> {
    /// The descriptor.
    pub fd: RawFd,
    /// Who waits for data.
    pub read: Half<H, W>,
    /// Who waits for room.
    pub write: Half<H, W>,
    /// Operations use this descriptor, so it stays registered for both directions.
    pub keeps_registration: bool,
}

impl<H, W> Descriptor<H, W> {
    /// A watch of a descriptor that nobody waits for yet.
    pub fn new(fd: RawFd) -> Self {
        Self { fd, read: Half::default(), write: Half::default(), keeps_registration: false }
    }

    /// The directions to register. Urgent data is for none of them: who reads would find nothing.
    pub fn interest(&self) -> Interest {
        if self.keeps_registration {
            return Interest::BOTH;
        }
        let (readable, writable) = (self.read.handler.is_some(), self.write.handler.is_some());
        Interest { readable, writable, urgent: false }
    }

    /// Whether no callback is to be called.
    pub fn is_unhandled(&self) -> bool {
        self.read.handler.is_none() && self.write.handler.is_none()
    }

    /// Whether nobody waits: the watch is kept for the next operation, if there ever is one.
    pub fn is_unused(&self) -> bool {
        self.is_unhandled() && self.read.waiting.is_empty() && self.write.waiting.is_empty()
    }

    /// Whether nobody watches any more, so that the watch can go away.
    pub fn is_idle(&self) -> bool {
        self.is_unhandled() && !self.keeps_registration
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callbacks_register_the_direction_they_want_and_operations_both() {
        let mut watch: Descriptor<&str, &str> = Descriptor::new(3);
        assert!(watch.is_idle());
        watch.read.handler = Some("callback");
        assert_eq!(Interest::READABLE, watch.interest());
        watch.keeps_registration = true;
        assert_eq!(Interest::BOTH, watch.interest());
        watch.read.handler = None;
        assert_eq!((true, false), (watch.is_unhandled(), watch.is_idle()));
        assert!(watch.is_unused());
        watch.write.waiting.push_back("operation");
        assert!(!watch.is_unused());
    }
}
