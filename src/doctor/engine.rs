//! The laptop's side: the engine, the image, the kernel, Compose.

use super::Line;
use crate::compose::client;
use crate::docker::{Engine, EngineError, SidecarSpec};
use crate::error::Error;
use crate::event::Reporter;
use crate::session::identity::Identity;
use crate::session::rundir::RunDir;
use crate::session::sidecar::Sidecar;
use crate::settings::NetSpec;
use tpdocker_protocol::control::SidecarConfig;

/// The lines about the engine.
pub(super) async fn check(engine: &Result<Engine, EngineError>, reporter: &Reporter) -> Vec<Line> {
    let mut lines = Vec::new();
    match engine {
        Ok(engine) => {
            lines.push(Line::ok("engine", format!("Docker {} at {}", engine.version(), engine.socket().display())));
            match engine.ensure_sidecar_image(reporter).await {
                Ok(()) => {
                    lines.push(Line::ok("sidecar image", crate::image::sidecar().reference()));
                    lines.push(match capture(engine).await {
                        Ok(how) => Line::ok("capture", how),
                        Err(error) => Line::failed("capture", error),
                    });
                }
                Err(error) => {
                    lines.push(Line::failed("sidecar image", error));
                    lines.push(Line::note("capture", "not checked: it needs the sidecar image"));
                }
            }
        }
        Err(error) => {
            lines.push(Line {
                cure: crate::error::Explain::hint(error),
                code: Some(crate::error::Explain::code(error).into()),
                ..Line::new("engine", super::State::Fix, chain(error))
            });
            for check in ["sidecar image", "capture"] {
                lines.push(Line::note(check, "not checked: it needs the engine"));
            }
        }
    }
    lines.push(match client::plugin().await {
        Ok(path) => Line::ok("compose", path.display().to_string()),
        Err(error) => {
            let cure = crate::error::Explain::hint(&error).unwrap_or_default();
            Line::note("compose", format!("only `tpdocker compose` needs it: {}", chain(&error))).with_cure(cure)
        }
    });
    lines
}

/// An error that others still need, with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    std::iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}

/// Has a sidecar set its rules in a namespace of its own, and takes it away again.
async fn capture(engine: &Engine) -> Result<String, Error> {
    let id = Identity::new()?.id;
    let run_dir = RunDir::create(&id)?;
    let spec = SidecarSpec {
        session: id.to_string(),
        name: format!("tpdocker-doctor-{id}"),
        hostname: None,
        net: NetSpec::default(),
        aliases: Vec::new(),
        run_dir: run_dir.shared(),
        volumes: Vec::new(),
    };
    let tried = async {
        engine.start_sidecar(&spec).await?;
        let mut sidecar = Sidecar::connect(&run_dir.socket()).await?;
        sidecar.configure(SidecarConfig::default()).await?;
        sidecar.watch().await?;
        Ok::<_, Error>(sidecar.status().await?)
    };
    let outcome = tried.await;
    let removed = engine.remove_all_of(id.as_str()).await;
    let status = outcome?;
    removed?;
    Ok(format!("by {}", status.capture.unwrap_or_default()))
}
