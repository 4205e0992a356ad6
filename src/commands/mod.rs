//! What each command does.

mod compose;
mod doctor;
mod image;
mod leftovers;
mod rbac;
mod restore;
mod run;
mod status;
mod stop;
mod undo;

use crate::error::Error;
use crate::output::{Console, result};
use crate::settings::{Command, Settings};

/// Carries out a command and answers with the process's exit code: the app's own, where there is an app.
pub async fn dispatch(settings: Settings, console: Console) -> Result<u8, Error> {
    match settings.command {
        // On the heap: a whole session is one future.
        Command::Run(run) => Box::pin(run::run(*run, settings.output, &console)).await,
        Command::Compose(compose) => compose::compose(compose, &console).await,
        Command::Image(image) => image::image(image, &console.reporter()).await,
        Command::Doctor(doctor) => doctor::doctor(doctor, settings.output, &console.reporter()).await,
        Command::Rbac(rbac) => rbac::rbac(rbac).await,
        Command::Restore(restore) => restore::restore(restore, &console).await,
        Command::Status(status) => status::status(status, settings.output, &console).await,
        Command::Stop(which) => stop::stop(which, &console).await,
        Command::Version => {
            result::print(concat!("tpdocker ", env!("CARGO_PKG_VERSION"), "\n"))?;
            Ok(0)
        }
    }
}
