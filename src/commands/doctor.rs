//! `tpdocker doctor`: the report on stdout, and its exit code.

use crate::doctor;
use crate::error::Error;
use crate::event::Reporter;
use crate::output::result;
use crate::settings::{DoctorSettings, OutputFormat};

/// Carries out `tpdocker doctor`.
pub async fn doctor(settings: DoctorSettings, output: OutputFormat, reporter: &Reporter) -> Result<u8, Error> {
    let report = Box::pin(doctor::examine(&settings, reporter)).await;
    result::report(output, &report, || report.to_text())?;
    Ok(report.exit_code())
}
