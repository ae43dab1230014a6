//! Atomics for the state that threads share without a lock: the machine's own, or those of the model
//! checker, which tries every interleaving.

#[cfg(not(feature = "model"))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

#[cfg(feature = "model")]
pub(crate) use modelled::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// loom treats a `SeqCst` access as an `AcqRel` one. `SeqCst` is used for one property: of two threads that
/// each write and then read, at least one sees the other's write. In loom only fences give that property. So
/// there is a fence between a `SeqCst` write and the `SeqCst` read that follows it; and none where either is
/// weaker, so that the model fails when one of them is weakened.
#[cfg(feature = "model")]
mod modelled {
    use std::cell::Cell;

    pub(crate) use loom::sync::atomic::Ordering;
    use loom::sync::atomic::fence;

    loom::thread_local! {
        /// This thread's last write was `SeqCst`, and no fence came after it.
        static HAS_WRITTEN: Cell<bool> = Cell::new(false);
    }

    fn before_read(order: Ordering) {
        if order == Ordering::SeqCst && HAS_WRITTEN.with(|it| it.replace(false)) {
            fence(Ordering::SeqCst);
        }
    }

    fn before_write(order: Ordering) {
        // Not later: a fence after the weaker write would order that, too.
        if HAS_WRITTEN.with(|it| it.replace(order == Ordering::SeqCst)) && order != Ordering::SeqCst
        {
            fence(Ordering::SeqCst);
        }
    }

    /// Before an access that reads and writes at once.
    fn before_both(order: Ordering) {
        before_read(order);
        // No fence before a weaker access: it would order the access's read, too. Without it an earlier
        // `SeqCst` write may seem weaker than it is, which at worst is a false alarm.
        HAS_WRITTEN.with(|it| it.set(order == Ordering::SeqCst));
    }

    macro_rules! atomic {
        ($name:ident $(<$content:ident>)?, $value:ty) => {
            #[derive(Debug)]
            pub(crate) struct $name $(<$content>)? (loom::sync::atomic::$name $(<$content>)?);

            #[allow(dead_code, reason = "not every type needs every access")]
            impl $(<$content>)? $name $(<$content>)? {
                pub(crate) fn new(value: $value) -> Self {
                    Self(loom::sync::atomic::$name::new(value))
                }

                pub(crate) fn load(&self, order: Ordering) -> $value {
                    before_read(order);
                    self.0.load(order)
                }

                pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                    before_both(order);
                    self.0.swap(value, order)
                }

                pub(crate) fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    before_both(success);
                    let exchanged = self.0.compare_exchange(current, new, success, failure);
                    if exchanged.is_err() {
                        HAS_WRITTEN.with(|it| it.set(false));
                    }
                    exchanged
                }

                /// Never fails spuriously here: a caller would only try again at once.
                pub(crate) fn compare_exchange_weak(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.compare_exchange(current, new, success, failure)
                }
            }
        };
    }

    macro_rules! bits {
        ($name:ident, $value:ty) => {
            atomic!($name, $value);

            #[allow(dead_code, reason = "not every width needs every access")]
            impl $name {
                pub(crate) fn store(&self, value: $value, order: Ordering) {
                    before_write(order);
                    self.0.store(value, order);
                }

                pub(crate) fn fetch_or(&self, bits: $value, order: Ordering) -> $value {
                    before_both(order);
                    self.0.fetch_or(bits, order)
                }

                pub(crate) fn fetch_and(&self, bits: $value, order: Ordering) -> $value {
                    before_both(order);
                    self.0.fetch_and(bits, order)
                }
            }
        };
    }

    // No `store` for these: what several threads change is swapped. loom forgets that no write comes between
    // a swap's read and its write, and may let a swap read a value older than a store that its thread has
    // seen.
    atomic!(AtomicBool, bool);
    atomic!(AtomicPtr<T>, *mut T);
    bits!(AtomicU32, u32);
    bits!(AtomicU64, u64);
}
