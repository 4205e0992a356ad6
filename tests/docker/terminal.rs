//! `-i -t`: a terminal of ours at one end, the container's at the other.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use tpdocker::docker::{EngineError, Stdio};
use tpdocker::settings::AppSpec;

use crate::support::{PATIENCE, Session, shell};

nix::ioctl_write_ptr_bad!(set_window, libc::TIOCSWINSZ, Winsize);

const FIRST: Winsize = Winsize { ws_row: 33, ws_col: 101, ws_xpixel: 0, ws_ypixel: 0 };
const SECOND: Winsize = Winsize { ws_row: 17, ws_col: 71, ws_xpixel: 0, ws_ypixel: 0 };

/// What the screen has shown so far.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Screen {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    async fn until_shows(&self, text: &str) {
        let waiting = async {
            while !self.text().contains(text) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let shown = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(shown.is_ok(), "waited for {text:?}, saw {:?}", self.text());
    }
}

#[tokio::test]
async fn a_terminal_is_raw_has_our_window_follows_it_and_is_put_back() {
    let Some(session) = Session::begin().await else { return };
    let OpenptyResult { master, slave } = openpty(&FIRST, None).unwrap();
    let canonical = || tcgetattr(&slave).unwrap().local_flags.contains(LocalFlags::ICANON);
    let screen = Screen::default();
    let (shown, mut keyboard) = (screen.clone(), File::from(master.try_clone().unwrap()));
    thread::spawn(move || {
        let (mut master, mut buffer) = (File::from(master), [0; 1024]);
        while let Ok(length @ 1..) = master.read(&mut buffer) {
            shown.0.lock().unwrap().extend_from_slice(&buffer[..length]);
        }
    });

    // The prompt has no newline: it has to be shown all the same.
    let script = "until [ \"$(stty size)\" = '33 101' ]; do :; done; printf 'prompt> '; read line; echo \"got $line\"; \
                  until [ \"$(stty size)\" = '17 71' ]; do :; done; echo resized; trap 'echo interrupted; exit 5' INT; \
                  echo armed; sleep 60 & wait";
    let spec = AppSpec { interactive: true, tty: true, ..shell(script) };
    let app = session.create(&spec).await;
    let descriptor = || slave.as_fd().try_clone_to_owned().unwrap();
    let stdio = Stdio { stdin: descriptor(), stdout: descriptor(), stderr: descriptor() };
    assert!(canonical());
    let mut running = app.run(stdio).await.unwrap();
    screen.until_shows("prompt> ").await;
    assert!(!canonical(), "the terminal is raw while the app runs");

    keyboard.write_all(b"hello\r").unwrap();
    screen.until_shows("got hello").await;
    // SAFETY: the descriptor is open, and SECOND is a winsize.
    unsafe { set_window(slave.as_raw_fd(), &SECOND) }.unwrap();
    kill(Pid::this(), Signal::SIGWINCH).unwrap();
    screen.until_shows("resized").await;

    // Ctrl-C is the app's.
    screen.until_shows("armed").await;
    keyboard.write_all(b"\x03").unwrap();
    let exit = tokio::time::timeout(PATIENCE, running.wait()).await.unwrap().unwrap();
    assert_eq!(exit.code, 5, "{}", screen.text());
    assert!(canonical(), "the terminal is put back");
    screen.until_shows("interrupted").await;
}

#[tokio::test]
async fn a_terminal_is_put_back_when_the_session_is_dropped() {
    let Some(session) = Session::begin().await else { return };
    let pty = openpty(&FIRST, None).unwrap();
    let canonical = || tcgetattr(&pty.slave).unwrap().local_flags.contains(LocalFlags::ICANON);
    let app = session.create(&AppSpec { interactive: true, tty: true, ..shell("sleep 60") }).await;
    let descriptor = || pty.slave.try_clone().unwrap();
    let running = app.run(Stdio { stdin: descriptor(), stdout: descriptor(), stderr: descriptor() }).await.unwrap();
    assert!(!canonical());
    drop(running);
    assert!(canonical());
}

#[tokio::test]
async fn a_terminal_is_refused_where_there_is_none() {
    let Some(session) = Session::begin().await else { return };
    let spec = AppSpec { interactive: true, tty: true, ..shell("true") };
    let error = session.run(&spec, &[]).await.err().expect("a pipe is no terminal");
    assert!(matches!(error, EngineError::NotATerminal), "{error:?}");
}
