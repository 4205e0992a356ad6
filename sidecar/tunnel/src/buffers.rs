//! Buffers for large reads.
//!
//! What is read is handed on as slices of the buffer, so a buffer is free when its last slice is. Allocating a new one
//! for every read would cost a page fault for every 4 KiB; so the last few are kept and taken again when they are
//! free.

use std::collections::VecDeque;

use bytes::BytesMut;

/// Hands out buffers with room for a read.
#[derive(Debug)]
pub(crate) struct Buffers {
    current: BytesMut,
    kept: VecDeque<BytesMut>,
    size: usize,
    most: usize,
}

impl Buffers {
    /// Buffers of `size` bytes, of which at most `most` are remembered while their slices are in use; the first one is
    /// allocated when it is asked for.
    pub(crate) fn new(size: usize, most: usize) -> Self {
        Self { current: BytesMut::new(), kept: VecDeque::new(), size, most }
    }

    /// The size of the next new buffer.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// From here on, buffers of `size` bytes.
    pub(crate) fn resize(&mut self, size: usize) {
        self.size = size;
        self.kept.clear();
    }

    /// A buffer that holds what was left in the last one and has room for at least a quarter of the size.
    pub(crate) fn get(&mut self) -> &mut BytesMut {
        let room = self.current.capacity() - self.current.len();
        if room < self.size / 4 {
            let mut next = self.take_free();
            next.extend_from_slice(&self.current);
            next.reserve(self.size / 4);
            self.current.clear();
            let full = std::mem::replace(&mut self.current, next);
            if self.kept.len() == self.most {
                self.kept.pop_front();
            }
            self.kept.push_back(full);
        }
        &mut self.current
    }

    /// The buffer that [`Self::get`] gave last.
    pub(crate) fn current(&mut self) -> &mut BytesMut {
        &mut self.current
    }

    fn take_free(&mut self) -> BytesMut {
        // The one that was free last is the warmest in the processor's cache.
        let free = (0..self.kept.len()).rev().find(|index| self.kept[*index].try_reclaim(self.size));
        free.and_then(|index| self.kept.remove(index)).unwrap_or_else(|| BytesMut::with_capacity(self.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_whose_slices_are_gone_is_used_again() {
        let mut buffers = Buffers::new(1024, 4);
        let mut places = std::collections::HashSet::new();
        for _ in 0..100 {
            let buffer = buffers.get();
            let room = buffer.capacity() - buffer.len();
            buffer.extend_from_slice(&vec![7; room]);
            let slice = buffer.split().freeze();
            places.insert(slice.as_ptr());
        }
        assert!(places.len() <= 2, "{} places", places.len());
    }

    #[test]
    fn what_was_left_in_a_full_buffer_is_found_in_the_next() {
        let mut buffers = Buffers::new(64, 4);
        let buffer = buffers.get();
        buffer.extend_from_slice(&[1; 60]);
        let _held = buffer.split_to(57).freeze();
        assert_eq!(&buffers.get()[..], &[1; 3]);
        assert!(buffers.get().capacity() >= 64 / 4);
    }
}
