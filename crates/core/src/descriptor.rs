//! A descriptor that belongs to the program: its callbacks, and the operations that wait for it.
//!
//! Callbacks (`add_reader`) want levels: they are called again until they have taken everything.
//! Operations (`sock_recv`) were tried before they wait, so they need edges only, and their
//! descriptor stays registered from one operation to the next. One [`Descriptor`] serves both.

use std::collections::VecDeque;
use std::os::fd::RawFd;

use crate::poller::Interest;

/// One direction of a descriptor.
#[derive(Debug)]
pub struct Half<H, W> {
    /// The callback, called for as long as the descriptor is ready in this direction.
    pub handler: Option<H>,
    /// Operations that wait for this direction, in the order in which they came.
    pub waiting: VecDeque<W>,
}

impl<H, W> Default for Half<H, W> {
    fn default() -> Self {
        Self { handler: None, waiting: VecDeque::new() }
    }
}

/// A descriptor of the program; `H` is a callback, `W` a waiting operation.
#[derive(Debug)]
pub struct Descriptor<H, W> {
    /// The descriptor.
    pub fd: RawFd,
    /// The callback and the operations that wait for data.
    pub read: Half<H, W>,
    /// The callback and the operations that wait for room.
    pub write: Half<H, W>,
    /// Operations use this descriptor, so it stays registered for both directions.
    pub keeps_registration: bool,
}

impl<H, W> Descriptor<H, W> {
    /// A descriptor that nothing waits for yet.
    pub fn new(fd: RawFd) -> Self {
        Self { fd, read: Half::default(), write: Half::default(), keeps_registration: false }
    }

    /// The directions to register. Urgent data is left out: a read for it would find nothing.
    pub fn interest(&self) -> Interest {
        if self.keeps_registration {
            return Interest::BOTH;
        }
        let (readable, writable) = (self.read.handler.is_some(), self.write.handler.is_some());
        Interest { readable, writable, urgent: false }
    }

    /// Whether there is no callback.
    pub fn is_unhandled(&self) -> bool {
        self.read.handler.is_none() && self.write.handler.is_none()
    }

    /// Whether nothing waits: only the next operation, if there is one, needs the registration.
    pub fn is_unused(&self) -> bool {
        self.is_unhandled() && self.read.waiting.is_empty() && self.write.waiting.is_empty()
    }

    /// Whether the descriptor can be deregistered: it has no callback, and no operation uses it.
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
