//! What happens when a request has changed the floating-point state, besides restoring it and counting.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Policy {
    Restore,
    Warn,
    Raise,
    /// Nothing is compared.
    Off,
}

impl Policy {
    const NAMES: [(&str, Self); 4] = [
        ("restore", Self::Restore),
        ("warn", Self::Warn),
        ("raise", Self::Raise),
        ("off", Self::Off),
    ];
}

/// The policy of one dispatcher.
#[derive(Debug)]
pub(crate) struct FpPolicy(AtomicU8);

impl Default for FpPolicy {
    fn default() -> Self {
        Self(AtomicU8::new(Policy::Restore as u8))
    }
}

impl FpPolicy {
    #[inline]
    pub(crate) fn is_off(&self) -> bool {
        self.0.load(Relaxed) == Policy::Off as u8
    }

    pub(crate) fn name(&self) -> &'static str {
        let now = self.0.load(Relaxed);
        let named = Policy::NAMES.iter().find(|(_, it)| *it as u8 == now);
        named.map_or("restore", |(name, _)| name)
    }

    /// Set the policy by its name; `false`: there is none of this name.
    pub(crate) fn set(&self, name: &str) -> bool {
        let known = Policy::NAMES.iter().find(|(it, _)| *it == name);
        known.map(|(_, policy)| self.0.store(*policy as u8, Relaxed)).is_some()
    }
}
