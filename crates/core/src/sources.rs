//! Sources: the owners to which the readiness of descriptors is reported.
//!
//! A key carries the generation of its slot, so that an event that arrives after its source was
//! removed finds no owner, rather than the slot's next one.

use slab::Slab;

// A key travels through the poller as a usize, generation and all.
const _: () = assert!(usize::BITS == 64, "threadlets needs a 64-bit platform");

/// Names one source of readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceKey(u64);

impl SourceKey {
    fn new(slot: usize, generation: u32) -> Self {
        Self((u64::from(generation) << 32) | slot as u64)
    }

    fn slot(self) -> usize {
        (self.0 & u64::from(u32::MAX)) as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The key as the poller carries it.
    pub(crate) fn to_bits(self) -> usize {
        self.0 as usize
    }

    /// The key that [`SourceKey::to_bits`] gave.
    pub(crate) fn from_bits(bits: usize) -> Self {
        Self(bits as u64)
    }
}

/// The sources registered with one poller, each with an owner of type `S`.
#[derive(Debug)]
pub struct Sources<S> {
    slots: Slab<(u32, S)>,
    generation: u32,
}

impl<S> Default for Sources<S> {
    fn default() -> Self {
        Self { slots: Slab::new(), generation: 0 }
    }
}

impl<S> Sources<S> {
    /// Add a source and give it a key that no other source has had.
    pub fn insert(&mut self, owner: S) -> SourceKey {
        // The generation's top bit stays clear: the poller keeps the largest key for itself.
        self.generation = (self.generation + 1) & (u32::MAX >> 1);
        SourceKey::new(self.slots.insert((self.generation, owner)), self.generation)
    }

    /// The owner of a source; `None` if it was removed.
    pub fn get(&self, key: SourceKey) -> Option<&S> {
        let (generation, owner) = self.slots.get(key.slot())?;
        (*generation == key.generation()).then_some(owner)
    }

    /// Remove a source and return its owner.
    pub fn remove(&mut self, key: SourceKey) -> Option<S> {
        self.get(key)?;
        Some(self.slots.remove(key.slot()).1)
    }

    /// How many sources there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are no sources.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The owners of all sources.
    pub fn owners(&self) -> impl Iterator<Item = &S> {
        self.slots.iter().map(|(_, (_, owner))| owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_event_does_not_reach_the_slots_next_owner() {
        let mut sources = Sources::default();
        let first = sources.insert("first");
        assert_eq!(Some("first"), sources.remove(first));
        let second = sources.insert("second");
        assert_eq!(None, sources.get(first));
        assert_eq!(None, sources.remove(first));
        assert_eq!(Some(&"second"), sources.get(SourceKey::from_bits(second.to_bits())));
    }

    #[test]
    fn every_source_that_was_not_removed_is_counted_and_listed() {
        let mut sources = Sources::default();
        assert!(sources.is_empty());
        let keys = ["one", "two", "three"].map(|owner| sources.insert(owner));
        assert_eq!(Some("two"), sources.remove(keys[1]));
        assert_eq!((2, false), (sources.len(), sources.is_empty()));
        assert_eq!(vec![&"one", &"three"], sources.owners().collect::<Vec<_>>());
    }
}
