//! Entry point: parses, logs, runs, picks the exit code.

use std::error::Error;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tpdocker_sidecar::args::{Args, Role};
use tpdocker_sidecar::dataplane::{self, Options};
use tpdocker_sidecar::{health, holder};

fn main() -> ExitCode {
    let outcome = Args::parse(std::env::args().skip(1)).map_err(Into::into).and_then(|args| {
        tracing_subscriber::fmt().with_max_level(args.log).with_ansi(false).with_writer(std::io::stderr).init();
        match args.role {
            Role::Hold => holder::hold(args.log).map_err(Into::into),
            Role::Run => run(),
            Role::Healthy => health::check(&Options::default().socket).map_err(Into::into),
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tpdocker-sidecar: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("  because {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    holder::unblock_signals()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => (),
                _ = interrupt.recv() => (),
            }
        };
        Ok(dataplane::run(Options::default(), shutdown).await?)
    })
}
