//! The atomics and the waiting of the take-over protocol: the machine's own, or those of the model
//! checker, which tries every interleaving.

#[cfg(not(feature = "model"))]
pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(feature = "model")]
pub(super) use modelled::{AtomicU32, AtomicU64, Ordering};

/// loom takes a `SeqCst` access for an `AcqRel` one, and has only fences for what is asked of
/// `SeqCst`: that of two threads which each write and then look, one sees the other. So between a
/// `SeqCst` write and the `SeqCst` read that follows it there is a fence; and none where either is
/// weaker, so that the model fails when somebody weakens one.
#[cfg(feature = "model")]
mod modelled {
    use std::cell::Cell;

    pub(in super::super) use loom::sync::atomic::Ordering;
    use loom::sync::atomic::fence;

    loom::thread_local! {
        /// The last write was `SeqCst`, and no fence came after it.
        static HAS_WRITTEN: Cell<bool> = Cell::new(false);
    }

    fn before_read(order: Ordering) {
        if order == Ordering::SeqCst && HAS_WRITTEN.with(|it| it.replace(false)) {
            fence(Ordering::SeqCst);
        }
    }

    fn before_write(order: Ordering) {
        // A fence further down would order the weaker write too.
        if HAS_WRITTEN.with(|it| it.replace(order == Ordering::SeqCst)) && order != Ordering::SeqCst
        {
            fence(Ordering::SeqCst);
        }
    }

    macro_rules! atomic {
        ($name:ident, $value:ty) => {
            #[derive(Debug)]
            pub(in super::super) struct $name(loom::sync::atomic::$name);

            #[allow(dead_code, reason = "not every width needs every access")]
            impl $name {
                pub(in super::super) fn new(value: $value) -> Self {
                    Self(loom::sync::atomic::$name::new(value))
                }

                pub(in super::super) fn load(&self, order: Ordering) -> $value {
                    before_read(order);
                    self.0.load(order)
                }

                pub(in super::super) fn store(&self, value: $value, order: Ordering) {
                    before_write(order);
                    self.0.store(value, order);
                }

                pub(in super::super) fn swap(&self, value: $value, order: Ordering) -> $value {
                    before_read(order);
                    before_write(order);
                    self.0.swap(value, order)
                }

                pub(in super::super) fn fetch_or(&self, bits: $value, order: Ordering) -> $value {
                    before_read(order);
                    before_write(order);
                    self.0.fetch_or(bits, order)
                }

                pub(in super::super) fn fetch_and(&self, bits: $value, order: Ordering) -> $value {
                    before_read(order);
                    before_write(order);
                    self.0.fetch_and(bits, order)
                }
            }
        };
    }

    atomic!(AtomicU32, u32);
    atomic!(AtomicU64, u64);
}
