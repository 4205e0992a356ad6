//! Entry point: parses, logs, runs, picks the exit code.

use std::process::ExitCode;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tpdocker_protocol::contract::PROXY_READY_SOCKET;
use tpdocker_proxy::args::Command;
use tpdocker_proxy::ready;
use tpdocker_proxy::server::{Config, Server};
use tracing::level_filters::LevelFilter;

/// Threads that move bytes. A node has many cores, of which a stand-in should not claim more than a few.
const MAX_WORKERS: usize = 4;

fn main() -> ExitCode {
    let outcome = match Command::parse(std::env::args().skip(1)) {
        Ok(Command::Ready) => {
            return if ready::probe(PROXY_READY_SOCKET) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Ok(Command::Serve { config, log }) => serve(*config, log),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tpdocker-proxy: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("  because {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config, log: LevelFilter) -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_max_level(log).with_ansi(false).with_writer(std::io::stderr).init();
    raise_descriptor_limit();
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    runtime.block_on(async {
        // As PID 1 of its container the process has no default actions: an unhandled SIGTERM would be ignored.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let server = Server::bind(config).await?;
        tracing::info!("listening on {}", server.address());
        server
            .run(async move {
                tokio::select! {
                    _ = terminate.recv() => (),
                    _ = interrupt.recv() => (),
                }
            })
            .await;
        Ok(())
    })
}

/// Every connection of the app is a descriptor here, and runtimes start containers with a soft limit of 1024.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(errno) = raised {
        tracing::warn!("the limit of open files stays as it is: {errno}");
    }
}
