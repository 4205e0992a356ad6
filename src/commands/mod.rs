//! What each command does.

use crate::error::{Bug, Error};
use crate::output::Console;
use crate::settings::Settings;

/// Carries out a command and answers with the process's exit code: the app's own, where there is an app.
#[expect(clippy::unused_async, reason = "the commands wait for engine and cluster")]
pub async fn dispatch(_settings: Settings, _console: Console) -> Result<u8, Error> {
    Err(Bug::new("this command is not built yet").into())
}
