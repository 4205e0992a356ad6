//! `tpdocker image`: the proxy image that this binary carries, on its way to the cluster.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use crate::docker::Engine;
use crate::error::{Code, Error, Explain};
use crate::event::Reporter;
use crate::image;
use crate::output::result;
use crate::settings::ImageSettings;

/// The tar cannot be written.
#[derive(Debug, thiserror::Error)]
enum SaveError {
    #[error("an image is not written to a terminal")]
    Terminal,
    #[error("cannot write {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("cannot write the image to standard output")]
    Stdout(#[source] io::Error),
}

impl Explain for SaveError {
    fn code(&self) -> Code {
        match self {
            Self::Terminal | Self::File { .. } => Code::Usage,
            Self::Stdout(_) => Code::Host,
        }
    }

    fn hint(&self) -> Option<String> {
        matches!(self, Self::Terminal).then(|| "tpdocker image save -o proxy.tar".into())
    }
}

/// Carries out `tpdocker image …`.
pub async fn image(settings: ImageSettings, reporter: &Reporter) -> Result<u8, Error> {
    match settings {
        ImageSettings::Save { file } => save(file)?,
        ImageSettings::Load => {
            let reference = Engine::connect().await?.load_proxy_image(reporter).await?;
            result::print(&format!("{reference}\n"))?;
        }
        ImageSettings::Push { reference } => {
            let pushed = Engine::connect().await?.push_proxy_image(&reference, reporter).await?;
            result::print(&format!("{pushed}\n"))?;
        }
    }
    Ok(0)
}

fn save(file: Option<PathBuf>) -> Result<(), SaveError> {
    let carried = image::proxy();
    if let Some(path) = file {
        let failed = |source| SaveError::File { path: path.clone(), source };
        let mut out = File::create(&path).map_err(failed)?;
        return carried.write_tar(&mut out).map_err(failed);
    }
    let mut stdout = io::stdout().lock();
    if stdout.is_terminal() {
        return Err(SaveError::Terminal);
    }
    carried.write_tar(&mut stdout).and_then(|()| stdout.flush()).map_err(SaveError::Stdout)
}
