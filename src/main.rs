//! Parses, logs, runs, picks the exit code; nothing else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use tpdocker::cli::{self, Request, Surroundings};
use tpdocker::error::{Bug, Error, HostError};
use tpdocker::output::{Console, logging, result};
use tpdocker::settings::{OutputFormat, Settings};

fn main() -> ExitCode {
    let around = match Surroundings::of_process() {
        Ok(around) => around,
        Err(error) => return fail(&Console::stderr(OutputFormat::Text), &error.into()),
    };
    match cli::parse(std::env::args_os(), &around) {
        Ok(Request::Act(settings)) => act(*settings),
        Ok(Request::Print(text)) => match result::print(&text) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&Console::stderr(OutputFormat::Text), &error.into()),
        },
        Err(failure) => fail(&Console::stderr(failure.output), &failure.error.into()),
    }
}

fn act(settings: Settings) -> ExitCode {
    let console = Console::stderr(settings.output);
    logging::start(settings.verbosity, settings.output, &console);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&console, &HostError::new("the async runtime does not start", error).into()),
    };
    let command = tpdocker::commands::dispatch(settings, console.clone());
    // The panic's own message and place have been printed by then; what is missing is the exit code and what to do.
    let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(command)))
        .unwrap_or_else(|_| Err(Bug::new("a panic, described above").into()));
    // A thread that blocks in a read of stdin would otherwise keep the process until the next key.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&console, &error),
    }
}

fn fail(console: &Console, error: &Error) -> ExitCode {
    console.error(error);
    ExitCode::from(u8::from(error.code()))
}
