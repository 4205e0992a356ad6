//! Logs of tpdocker and its libraries (`-v`), written through the [`Console`] so that they and the live line do not
//! overwrite each other.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::Console;
use crate::settings::OutputFormat;

/// Directives of tracing's `EnvFilter` that replace those of `-v`.
const FILTER_VARIABLE: &str = "TPDOCKER_LOG";

/// Starts logging at `verbosity`, the number of `-v`s. A second call is without effect.
pub fn start(verbosity: u8, format: OutputFormat, console: &Console) {
    // From debug on, bollard logs the bodies of requests and answers, and in them the pod's secrets: not without being
    // asked by name.
    let directives = match verbosity {
        // Our own warnings are of things that somebody has to do something about. Of a request that fails kube returns the error
        // and logs it too, several times a second while an API server is away.
        0 => "error,kube_client=off,tpdocker=warn",
        1 => "warn,tpdocker=debug",
        2 => "info,tpdocker=trace,kube_client=debug",
        _ => "debug,tpdocker=trace,bollard=info",
    };
    let filter = match std::env::var(FILTER_VARIABLE).map(EnvFilter::try_new) {
        Ok(Ok(filter)) => filter,
        Ok(Err(error)) => {
            console.reporter().warn(format!("{FILTER_VARIABLE} is not a filter and is ignored: {error}"));
            EnvFilter::new(directives)
        }
        Err(_) => EnvFilter::new(directives),
    };
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(console.clone()).with_ansi(false);
    let started = match format {
        OutputFormat::Text => logs.try_init(),
        OutputFormat::Json => logs.json().try_init(),
    };
    if let Err(error) = started {
        tracing::debug!("logging had been started before: {error}");
    }
}

impl<'a> MakeWriter<'a> for Console {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        Lines { console: self.clone(), text: Vec::new() }
    }
}

/// Collects what one log record writes; a record is written as a whole when this is dropped.
#[derive(Debug)]
pub struct Lines {
    console: Console,
    text: Vec<u8>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.text.is_empty() {
            self.console.log(&String::from_utf8_lossy(&self.text));
        }
    }
}
