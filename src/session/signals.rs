//! The signals of the process as one stream, so that one loop can put them in order with everything else.

use nix::sys::signal;
use tokio::signal::unix::{Signal, SignalKind};

use crate::error::HostError;

/// A signal that somebody sent to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGHUP: the terminal is gone.
    Hangup,
    /// SIGQUIT.
    Quit,
    /// SIGUSR1, for the app.
    User1,
    /// SIGUSR2, for the app.
    User2,
}

impl Received {
    /// Name, as the Docker API takes it.
    pub fn name(self) -> &'static str {
        self.signal().as_str()
    }

    /// What it is to the kernel, to pass it on to a process.
    pub fn signal(self) -> signal::Signal {
        match self {
            Self::Interrupt => signal::SIGINT,
            Self::Terminate => signal::SIGTERM,
            Self::Hangup => signal::SIGHUP,
            Self::Quit => signal::SIGQUIT,
            Self::User1 => signal::SIGUSR1,
            Self::User2 => signal::SIGUSR2,
        }
    }

    /// It asks the session to end; the rest is the app's business alone.
    pub fn ends(self) -> bool {
        !matches!(self, Self::User1 | Self::User2)
    }

    /// It was typed, by a person who does not want to wait. The others come from programs, which send them together
    /// (systemd's logout: SIGTERM and SIGHUP) or to a session that ends already (`tpdocker stop`).
    pub fn is_typed(self) -> bool {
        matches!(self, Self::Interrupt | Self::Quit)
    }

    /// Exit code of a process that died of it, as shells report it: 128 + the number.
    pub fn exit_code(self) -> u8 {
        128 + match self {
            Self::Hangup => 1,
            Self::Interrupt => 2,
            Self::Quit => 3,
            Self::User1 => 10,
            Self::User2 => 12,
            Self::Terminate => 15,
        }
    }
}

/// The stream. From its creation on, these signals no longer kill the process.
#[derive(Debug)]
pub struct Signals {
    streams: [(Received, Signal); 6],
}

impl Signals {
    /// Takes the signals over.
    pub fn take() -> Result<Self, HostError> {
        let on = |received, kind| match tokio::signal::unix::signal(kind) {
            Ok(stream) => Ok((received, stream)),
            Err(error) => Err(HostError::new("signals cannot be handled", error)),
        };
        Ok(Self {
            streams: [
                on(Received::Interrupt, SignalKind::interrupt())?,
                on(Received::Terminate, SignalKind::terminate())?,
                on(Received::Hangup, SignalKind::hangup())?,
                on(Received::Quit, SignalKind::quit())?,
                on(Received::User1, SignalKind::user_defined1())?,
                on(Received::User2, SignalKind::user_defined2())?,
            ],
        })
    }

    /// The next signal. Cancel-safe.
    pub async fn next(&mut self) -> Received {
        std::future::poll_fn(|cx| {
            for (received, stream) in &mut self.streams {
                if let std::task::Poll::Ready(Some(())) = stream.poll_recv(cx) {
                    return std::task::Poll::Ready(*received);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// Waits for a signal that ends the session, dropping the others: there is no app yet that they could be for.
    pub async fn end(&mut self) -> Received {
        loop {
            let received = self.next().await;
            if received.ends() {
                return received;
            }
        }
    }
}
