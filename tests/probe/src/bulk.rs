//! Many bytes that both ends can make from a number, and a checksum of them: fast enough that the network is measured.

use std::io::{self, Read, Write};

/// Bytes are made, sent and summed up in blocks of this size.
pub const BLOCK: usize = 64 << 10;

/// Sends `bytes` bytes, made from `seed`.
pub fn send(to: &mut impl Write, bytes: u64, seed: u64) -> io::Result<()> {
    let (mut state, mut block) = (seed | 1, vec![0; BLOCK]);
    for _ in 0..bytes / BLOCK as u64 {
        fill(&mut block, &mut state);
        to.write_all(&block)?;
    }
    to.flush()
}

/// Receives `bytes` bytes, and gives their checksum.
pub fn receive(from: &mut impl Read, bytes: u64) -> io::Result<u64> {
    let (mut sum, mut block) = (0, vec![0; BLOCK]);
    for _ in 0..bytes / BLOCK as u64 {
        from.read_exact(&mut block)?;
        add(&mut sum, &block);
    }
    Ok(sum)
}

/// The checksum of what [`send`] sends.
pub fn sum_of(bytes: u64, seed: u64) -> u64 {
    let (mut state, mut sum, mut block) = (seed | 1, 0, vec![0; BLOCK]);
    for _ in 0..bytes / BLOCK as u64 {
        fill(&mut block, &mut state);
        add(&mut sum, &block);
    }
    sum
}

/// Marsaglia's xorshift with the shifts 13, 7, 17.
fn fill(block: &mut [u8], state: &mut u64) {
    for word in block.chunks_exact_mut(8) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

/// Depends on every bit and on the order.
fn add(sum: &mut u64, block: &[u8]) {
    for word in block.chunks_exact(8) {
        let word = word.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        *sum = (sum.rotate_left(5) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_what_is_received_is_that_of_what_was_sent() {
        let (bytes, mut sent) = (3 * BLOCK as u64, Vec::new());
        send(&mut sent, bytes, 7).unwrap();
        assert_eq!(receive(&mut sent.as_slice(), bytes).unwrap(), sum_of(bytes, 7));
    }

    #[test]
    fn a_changed_bit_and_a_changed_order_are_another_checksum() {
        let bytes = BLOCK as u64;
        let mut sent = Vec::new();
        send(&mut sent, bytes, 7).unwrap();
        let whole = receive(&mut sent.as_slice(), bytes).unwrap();
        sent[BLOCK - 1] ^= 1;
        assert_ne!(receive(&mut sent.as_slice(), bytes).unwrap(), whole);
        sent[BLOCK - 1] ^= 1;
        sent.rotate_left(8);
        assert_ne!(receive(&mut sent.as_slice(), bytes).unwrap(), whole);
    }
}
