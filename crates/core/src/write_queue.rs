//! A connection's unsent bytes: chunks in order, the first of them perhaps sent in part.

use std::collections::VecDeque;
use std::io::IoSlice;

/// The most chunks that one system call sends: more than the small writes of a tick need.
const SLICES_MAX: usize = 64;

/// A queue of chunks of bytes; `C` owns or shares the bytes of one chunk.
#[derive(Debug)]
pub struct WriteQueue<C> {
    chunks: VecDeque<C>,
    n_sent_of_first: usize,
    n_bytes: usize,
}

impl<C> Default for WriteQueue<C> {
    fn default() -> Self {
        Self { chunks: VecDeque::new(), n_sent_of_first: 0, n_bytes: 0 }
    }
}

impl<C: AsRef<[u8]>> WriteQueue<C> {
    /// How many bytes are yet to be sent.
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// Whether everything has been sent.
    pub fn is_empty(&self) -> bool {
        self.n_bytes == 0
    }

    /// Add a chunk whose first `n_sent` bytes are sent already.
    pub fn push(&mut self, chunk: C, n_sent: usize) {
        let n_left = chunk.as_ref().len() - n_sent;
        if n_left == 0 {
            return;
        }
        debug_assert!(
            n_sent == 0 || self.chunks.is_empty(),
            "only the first chunk is sent in part"
        );
        if n_sent > 0 {
            self.n_sent_of_first = n_sent;
        }
        self.n_bytes += n_left;
        self.chunks.push_back(chunk);
    }

    /// The bytes that are yet to be sent, as slices in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let n_sent = std::iter::once(self.n_sent_of_first).chain(std::iter::repeat(0));
        self.chunks.iter().zip(n_sent).map(|(chunk, n_sent)| &chunk.as_ref()[n_sent..])
    }

    /// Pass the next bytes to `send`, as slices in order, and remove as many as it reports as sent.
    pub fn send_with<E>(
        &mut self,
        send: impl FnOnce(&[IoSlice<'_>]) -> Result<Option<usize>, E>,
    ) -> Result<Option<usize>, E> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut n_slices = 0;
        for (slice, unsent) in slices.iter_mut().zip(self.slices()) {
            *slice = IoSlice::new(unsent);
            n_slices += 1;
        }
        let sent = send(&slices[..n_slices])?;
        if let Some(n_sent) = sent {
            self.advance(n_sent);
        }
        Ok(sent)
    }

    fn advance(&mut self, n_sent: usize) {
        self.n_bytes -= n_sent;
        let mut n_sent = n_sent + self.n_sent_of_first;
        while let Some(first) = self.chunks.front() {
            let n_first = first.as_ref().len();
            if n_sent < n_first {
                break;
            }
            n_sent -= n_first;
            self.chunks.pop_front();
        }
        self.n_sent_of_first = n_sent;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However a queue is sent, bit by bit, the bytes come out once and in order.
        #[test]
        fn bytes_leave_once_and_in_order(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..100),
            sizes in prop::collection::vec(0usize..200, 1..20),
        ) {
            let expected: Vec<u8> = chunks.concat();
            let mut queue = WriteQueue::default();
            for chunk in chunks {
                queue.push(chunk, 0);
            }
            let mut sent = Vec::new();
            for size in sizes.iter().cycle() {
                if queue.is_empty() {
                    break;
                }
                // Every round sends something, or the test would not end.
                queue.send_with(|slices| {
                    let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
                    let n = (*size + 1).min(bytes.len());
                    sent.extend_from_slice(&bytes[..n]);
                    Ok::<_, ()>(Some(n))
                }).unwrap();
                prop_assert_eq!(expected.len() - sent.len(), queue.n_bytes());
            }
            prop_assert_eq!(expected, sent);
        }
    }

    #[test]
    fn a_chunk_sent_in_part_goes_on_where_it_stopped() {
        let mut queue = WriteQueue::default();
        queue.push(b"abcdef".to_vec(), 4);
        assert_eq!(2, queue.n_bytes());
        queue
            .send_with(|slices| {
                assert_eq!(b"ef", &*slices[0]);
                Ok::<_, ()>(None)
            })
            .unwrap();
        assert_eq!(2, queue.n_bytes());
    }
}
