//! `tpdocker doctor`: the report on stdout, and its exit code.

use crate::doctor;
use crate::error::{Bug, Error};
use crate::event::Reporter;
use crate::output::result;
use crate::settings::{DoctorSettings, OutputFormat};

/// Carries out `tpdocker doctor`.
pub async fn doctor(settings: DoctorSettings, output: OutputFormat, reporter: &Reporter) -> Result<u8, Error> {
    let report = Box::pin(doctor::examine(&settings, reporter)).await;
    let text = match output {
        OutputFormat::Text => report.to_text(),
        OutputFormat::Json => {
            serde_json::to_string(&report).map_err(|error| Bug::caused_by("the report is not JSON", error))? + "\n"
        }
    };
    result::print(&text)?;
    Ok(report.exit_code())
}
