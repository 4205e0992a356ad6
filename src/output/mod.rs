//! What people and scripts are told, all of it on stderr: stdout belongs to the app.
//!
//! A [`Console`] renders events for whoever reads: a terminal gets a line per finished step and one live line for
//! those that run, a pipe gets lines alone, a script gets JSON. The renderers are state machines that return text
//! ([`live`], [`plain`], [`json`]); the console alone writes. While the app has the terminal, the live line keeps quiet
//! ([`Console::quiet_live`]), and lines end the way a raw terminal needs.

use std::io::{IsTerminal as _, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::event::{Event, Reporter, Sink};
use crate::settings::OutputFormat;

mod json;
mod lines;
mod live;
pub mod logging;
mod palette;
mod plain;
pub mod result;

use live::Live;
use palette::Palette;
use plain::Plain;

/// How often the live line moves: fast enough to look alive, slow enough to cost nothing over ssh.
const FRAME: Duration = Duration::from_millis(100);

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Somebody in front of a terminal that moves its cursor.
    Terminal {
        /// With colours.
        colour: bool,
    },
    /// A file or a pipe.
    Pipe,
    /// A program.
    Script,
}

impl Audience {
    /// The one behind stderr. Colours keep to <https://no-color.org>.
    fn of_stderr(format: OutputFormat) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        match format {
            OutputFormat::Json => Self::Script,
            OutputFormat::Text if std::io::stderr().is_terminal() && !dumb => {
                Self::Terminal { colour: !set("NO_COLOR") }
            }
            OutputFormat::Text => Self::Pipe,
        }
    }
}

/// In which mode the app has put the terminal that it shares with us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TerminalMode {
    /// Lines end with a line feed.
    Cooked,
    /// The terminal no longer returns its carriage at a line feed.
    Raw,
}

/// The one place that writes to stderr; clones share it.
#[derive(Clone)]
pub struct Console(Arc<Mutex<State>>);

struct State {
    out: Box<dyn Write + Send>,
    /// `out` is a terminal, so the app's raw mode is ours too.
    terminal: bool,
    renderer: Renderer,
    /// The app has the terminal.
    quiet: Option<TerminalMode>,
    /// A thread draws the live line.
    drawing: bool,
}

enum Renderer {
    Live(Live),
    Plain(Plain),
    Json,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Console")
    }
}

// === impl Console ===

impl Console {
    /// Writes to this process's stderr, for whoever reads there.
    pub fn stderr(format: OutputFormat) -> Self {
        let stderr = std::io::stderr();
        let terminal = stderr.is_terminal();
        Self::with(Box::new(stderr), Audience::of_stderr(format), terminal)
    }

    /// Writes to `out` for `audience`.
    pub fn new(out: Box<dyn Write + Send>, audience: Audience) -> Self {
        Self::with(out, audience, matches!(audience, Audience::Terminal { .. }))
    }

    fn with(out: Box<dyn Write + Send>, audience: Audience, terminal: bool) -> Self {
        let renderer = match audience {
            Audience::Terminal { colour } => Renderer::Live(Live::new(Palette { colour })),
            Audience::Pipe => Renderer::Plain(Plain::default()),
            Audience::Script => Renderer::Json,
        };
        Self(Arc::new(Mutex::new(State { out, terminal, renderer, quiet: None, drawing: false })))
    }

    /// A reporter whose events end up here.
    pub fn reporter(&self) -> Reporter {
        Reporter::new(Arc::new(self.clone()))
    }

    /// Takes the live line away and keeps it away, because the app writes to the terminal from here on. Lines are
    /// still written, as `mode` needs them.
    pub fn quiet_live(&self, mode: TerminalMode) {
        let mut state = self.lock();
        let clear = state.clear();
        state.write(&clear);
        state.quiet = Some(mode);
    }

    /// The terminal is ours again.
    pub fn resume(&self) {
        let mut state = self.lock();
        state.quiet = None;
        let bar = state.bar(Instant::now());
        state.write(&bar);
        self.draw_if_needed(&mut state);
    }

    /// Tells why the command failed, each cause once, and the cure.
    pub fn error(&self, error: &Error) {
        let mut state = self.lock();
        let text = match &state.renderer {
            Renderer::Json => json::error(error),
            Renderer::Live(live) => lines::error(error, live.palette()),
            Renderer::Plain(_) => lines::error(error, Palette::NONE),
        };
        state.lines(&text);
    }

    /// Writes whole lines of a log among the others.
    fn log(&self, text: &str) {
        self.lock().lines(text.trim_end_matches('\n'));
    }

    fn draw_if_needed(&self, state: &mut State) {
        let Renderer::Live(live) = &state.renderer else { return };
        if state.drawing || state.quiet.is_some() || live.is_idle() {
            return;
        }
        let console = Arc::downgrade(&self.0);
        // Without a thread the line stands still until the next event, which is no reason to fail a command.
        state.drawing = thread::Builder::new().name("live-line".into()).spawn(move || draw(&console)).is_ok();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while writing leaves at worst half a line; what is told afterwards matters more.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Console {
    fn event(&self, event: &Event) {
        let now = Instant::now();
        let mut state = self.lock();
        let text = match &mut state.renderer {
            Renderer::Live(live) => live.event(event, now),
            Renderer::Plain(plain) => plain.event(event, now),
            Renderer::Json => Some(json::event(event)),
        };
        match text {
            Some(text) => state.lines(&text),
            None => state.redraw(now),
        }
        self.draw_if_needed(&mut state);
    }
}

// === impl State ===

impl State {
    /// Writes `text`, one or more lines without the last line feed, above the live line.
    fn lines(&mut self, text: &str) {
        let raw = self.terminal && self.quiet == Some(TerminalMode::Raw);
        let end = if raw { "\r\n" } else { "\n" };
        let mut out = self.clear();
        for line in text.split('\n') {
            out.push_str(line);
            out.push_str(end);
        }
        out.push_str(&self.bar(Instant::now()));
        self.write(&out);
    }

    fn redraw(&mut self, now: Instant) {
        let bar = self.bar(now);
        if !bar.is_empty() {
            let clear = self.clear();
            self.write(&(clear + &bar));
        }
    }

    fn clear(&self) -> String {
        match (&self.renderer, self.quiet) {
            (Renderer::Live(_), None) => live::CLEAR.to_owned(),
            _ => String::new(),
        }
    }

    fn bar(&self, now: Instant) -> String {
        match (&self.renderer, self.quiet) {
            (Renderer::Live(live), None) => live.bar(now),
            _ => String::new(),
        }
    }

    fn write(&mut self, text: &str) {
        // When stderr is gone there is nobody left to tell, and the session must still be ended in good order.
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }
}

/// Moves the live line until nothing runs, the app takes the terminal, or the console is gone.
fn draw(console: &Weak<Mutex<State>>) {
    loop {
        thread::sleep(FRAME);
        let Some(state) = console.upgrade() else { return };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = !matches!(&state.renderer, Renderer::Live(live) if !live.is_idle());
        if idle || state.quiet.is_some() {
            state.drawing = false;
            return;
        }
        state.redraw(Instant::now());
    }
}

#[cfg(test)]
mod tests;
