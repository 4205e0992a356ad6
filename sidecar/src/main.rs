//! Entry point: parses, logs, runs, picks the exit code.

use std::error::Error;
use std::pin::pin;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tpdocker_sidecar::args::{Args, Role};
use tpdocker_sidecar::dataplane::{self, DataPlaneError, Options};
use tpdocker_sidecar::{health, holder, incapable};

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
        let mut shutdown = pin!(async move {
            tokio::select! {
                _ = terminate.recv() => (),
                _ = interrupt.recv() => (),
            }
        });
        let options = Options::default();
        let outcome = dataplane::run(options.clone(), &mut shutdown).await;
        if let Err(DataPlaneError::Capture(error)) = &outcome {
            tokio::select! {
                told = incapable::tell(&options.socket, error) => if let Err(untold) = told {
                    tracing::warn!(%untold, "the CLI cannot be told why there is no data plane");
                },
                () = shutdown => {}
            }
        }
        Ok(outcome?)
    })
}
