//! Buffers for large reads.
//!
//! What is read is handed on as slices of the buffer, so a buffer is free when its last slice is. Allocating a new one
//! for every read would cost a page fault for every 4 KiB; so the last few are kept and taken again when they are
//! free.

use bytes::BytesMut;

/// Buffers that are remembered: one being written to the carrier, one queued, one being read by the app.
const KEPT: usize = 4;

/// Hands out buffers with room for a read.
#[derive(Debug)]
pub(crate) struct Buffers {
    current: BytesMut,
    kept: Vec<BytesMut>,
    size: usize,
}

impl Buffers {
    /// Buffers of `size` bytes; the first one is allocated when it is asked for.
    pub(crate) fn new(size: usize) -> Self {
        Self { current: BytesMut::new(), kept: Vec::new(), size }
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
            if self.kept.len() < KEPT && full.capacity() > 0 {
                self.kept.push(full);
            }
        }
        &mut self.current
    }

    /// The buffer that [`Self::get`] gave last.
    pub(crate) fn current(&mut self) -> &mut BytesMut {
        &mut self.current
    }

    fn take_free(&mut self) -> BytesMut {
        // The room is what makes a buffer worth keeping; one of another size is let go.
        let free = self.kept.iter_mut().position(|buffer| buffer.try_reclaim(self.size));
        match free {
            Some(index) => self.kept.swap_remove(index),
            None => {
                if self.kept.len() == KEPT {
                    self.kept.remove(0);
                }
                BytesMut::with_capacity(self.size)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_whose_slices_are_gone_is_used_again() {
        let mut buffers = Buffers::new(1024);
        let mut places = std::collections::HashSet::new();
        for _ in 0..100 {
            let buffer = buffers.get();
            let room = buffer.capacity() - buffer.len();
            buffer.extend_from_slice(&vec![7; room]);
            let slice = buffer.split().freeze();
            places.insert(slice.as_ptr());
        }
        assert!(places.len() <= KEPT + 1, "{} places", places.len());
    }

    #[test]
    fn what_was_left_in_a_full_buffer_is_found_in_the_next() {
        let mut buffers = Buffers::new(64);
        let buffer = buffers.get();
        buffer.extend_from_slice(&[1; 60]);
        let _held = buffer.split_to(57).freeze();
        assert_eq!(&buffers.get()[..], &[1; 3]);
        assert!(buffers.get().capacity() >= 64 / 4);
    }
}
