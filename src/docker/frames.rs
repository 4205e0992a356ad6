//! The format in which an engine sends stdout and stderr over one connection, when the container has no TTY.
//!
//! Frames of an 8-byte header (kind, three zeros, length in network order) and a payload; Docker Engine API, "Attach to a
//! container". Payloads are passed on in pieces as they arrive: a frame may be of any length, and waiting for its end
//! would hold back what the app has already said.

use bytes::{Buf, Bytes, BytesMut};

/// Length of a frame's header.
const HEADER: usize = 8;

/// Which of the app's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2, and what the engine itself has to say about the stream.
    Stderr,
}

/// The stream is none of frames.
#[derive(Debug, thiserror::Error)]
#[error("unknown kind {0} of a frame")]
pub(super) struct BadFrame(u8);

/// Takes frames apart.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The frame under way, and how much of it is to come.
    current: Option<(Output, usize)>,
}

impl Frames {
    /// The next piece of a payload in `buffer`; `Ok(None)` asks for more bytes.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<(Output, Bytes)>, BadFrame> {
        loop {
            match self.current {
                None => {
                    let Some(&[kind, _, _, _, a, b, c, d]) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
                    let output = match kind {
                        0 | 1 => Output::Stdout,
                        2 | 3 => Output::Stderr,
                        other => return Err(BadFrame(other)),
                    };
                    buffer.advance(HEADER);
                    self.current = Some((output, u32::from_be_bytes([a, b, c, d]) as usize));
                }
                Some((_, 0)) => self.current = None,
                Some(_) if buffer.is_empty() => return Ok(None),
                Some((output, left)) => {
                    let piece = buffer.split_to(left.min(buffer.len())).freeze();
                    self.current = Some((output, left - piece.len()));
                    return Ok(Some((output, piece)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b"\x01\0\0\0\0\0\0\x03out\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\x04\x01\0\xff\n\x01\0\0\0\0\0\0\x01!";

    fn run(chunk: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut stdout, mut stderr, mut frames, mut buffer) =
            (Vec::new(), Vec::new(), Frames::default(), BytesMut::new());
        for bytes in STREAM.chunks(chunk) {
            buffer.extend_from_slice(bytes);
            while let Some((output, piece)) = frames.next(&mut buffer).unwrap() {
                assert!(!piece.is_empty());
                match output {
                    Output::Stdout => stdout.extend_from_slice(&piece),
                    Output::Stderr => stderr.extend_from_slice(&piece),
                }
            }
        }
        assert!(buffer.is_empty());
        (stdout, stderr)
    }

    #[test]
    fn frames_come_apart_however_they_were_cut() {
        for chunk in 1..=STREAM.len() {
            assert_eq!(run(chunk), (b"out!".to_vec(), b"\x01\0\xff\n".to_vec()), "in chunks of {chunk}");
        }
    }

    #[test]
    fn a_piece_is_passed_on_before_its_frame_is_complete() {
        let mut buffer = BytesMut::from(&STREAM[..=HEADER]);
        let piece = Frames::default().next(&mut buffer).unwrap();
        assert_eq!(piece, Some((Output::Stdout, Bytes::from_static(b"o"))));
    }

    #[test]
    fn garbage_is_an_error() {
        let mut buffer = BytesMut::from(&b"HTTP/1.1 200"[..]);
        assert!(Frames::default().next(&mut buffer).is_err());
    }
}
