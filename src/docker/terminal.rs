//! What a TTY needs: raw mode for the time of the app, and the size of the window.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::libc;
use nix::sys::termios::{self, SetArg, Termios};

/// Size of a terminal's window, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// A terminal in raw mode: every key is the app's, Ctrl-C included. Dropping it puts the terminal back, on every way
/// out of a scope, a panic included.
#[derive(Debug)]
pub(super) struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Sets `terminal` to raw mode; `None` when it is no terminal.
    pub(super) fn enter(terminal: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        if !terminal.is_terminal() {
            return Ok(None);
        }
        let terminal = terminal.try_clone_to_owned()?;
        let before = termios::tcgetattr(&terminal)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(&terminal, SetArg::TCSANOW, &raw)?;
        Ok(Some(Self { terminal, before }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Err(error) = termios::tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before) {
            tracing::warn!(%error, "the terminal could not be put back; `reset` does");
        }
    }
}

/// The window of `terminal`; `None` when it is no terminal or does not tell.
pub(super) fn window(terminal: &impl AsFd) -> Option<Window> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one `winsize` to the pointer, which is valid and exclusive for the call, and the
    // descriptor is borrowed, so it is open.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_row > 0 && size.ws_col > 0).then_some(Window { rows: size.ws_row, columns: size.ws_col })
}

#[cfg(test)]
mod tests {
    use nix::pty::{Winsize, openpty};
    use nix::sys::termios::LocalFlags;

    use super::*;

    #[test]
    fn a_terminal_is_put_back_even_by_a_panic() {
        let pty = openpty(None, None).unwrap();
        let canonical = || termios::tcgetattr(&pty.slave).unwrap().local_flags.contains(LocalFlags::ICANON);
        let panicked = std::panic::catch_unwind(|| {
            let _raw = RawMode::enter(pty.slave.as_fd()).unwrap().unwrap();
            assert!(canonical(), "raw mode is on");
        });
        assert!(panicked.is_err());
        assert!(canonical());
    }

    #[test]
    fn a_window_is_read_from_a_terminal_and_from_nothing_else() {
        let size = Winsize { ws_row: 33, ws_col: 101, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        assert_eq!(window(&pty.slave), Some(Window { rows: 33, columns: 101 }));
        assert_eq!(window(&std::fs::File::open("/dev/null").unwrap()), None);
    }
}
