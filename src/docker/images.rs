//! Images in the engine: the user's, pulled when `docker run` would, and the sidecar's, loaded from this binary.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bollard::errors::Error as ApiError;
use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::CreateImageOptions;
use futures_util::TryStreamExt;

use super::credentials;
use super::engine::Engine;
use super::error::{EngineError, is_missing, refusal};
use crate::event::{Reporter, Step};
use crate::settings::PullPolicy;

/// How often a pull tells how far it is: as often as a person can read it.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// What an image says about the containers made of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// Its id, `sha256:…`.
    pub id: String,
    /// Its environment, as `K=V`.
    pub env: Vec<String>,
    /// Ports that it declares, as `8080/tcp`; a hint to people, nothing more.
    pub exposed_ports: Vec<String>,
    /// The user it runs as; root when empty.
    pub user: String,
    /// The signal that stops it; SIGTERM when `None`.
    pub stop_signal: Option<String>,
}

impl Engine {
    /// Makes `image` available as `--pull` and `--platform` ask, and tells what is in it.
    pub async fn ensure_image(
        &self,
        image: &str,
        policy: PullPolicy,
        platform: Option<&str>,
        reporter: &Reporter,
    ) -> Result<ImageFacts, EngineError> {
        let usable = |found: &ImageInspect| platform.is_none_or(|platform| is_for(found, platform));
        let present = self.inspect(image).await?.filter(usable);
        match (policy, present) {
            (PullPolicy::Missing | PullPolicy::Never, Some(present)) => return Ok(facts(present)),
            (PullPolicy::Never, None) => return Err(EngineError::ImageAbsent { image: image.to_owned() }),
            (PullPolicy::Always, _) | (PullPolicy::Missing, None) => {}
        }
        let step = reporter.step("pull");
        self.pull(image, platform, &step).await?;
        let pulled = self.inspect(image).await?.ok_or_else(|| EngineError::Image {
            image: image.to_owned(),
            message: "the engine pulled it and does not have it".to_owned(),
        })?;
        step.done(image);
        Ok(facts(pulled))
    }

    pub(super) async fn inspect(&self, image: &str) -> Result<Option<ImageInspect>, EngineError> {
        match self.api.inspect_image(image).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => match refusal(&error) {
                Some((_, message)) => Err(EngineError::Image { image: image.to_owned(), message: message.to_owned() }),
                None => Err(EngineError::lost("looking for an image", error)),
            },
        }
    }

    async fn pull(&self, image: &str, platform: Option<&str>, step: &Step) -> Result<(), EngineError> {
        let login = credentials::for_image(&self.config.file, image).await?;
        let options = CreateImageOptions {
            from_image: Some(with_tag(image)),
            platform: platform.unwrap_or_default().to_owned(),
            ..Default::default()
        };
        let mut lines = self.api.create_image(Some(options), None, login);
        let mut progress = Progress::default();
        while let Some(line) = lines.try_next().await.map_err(|error| pull_failure(image, &error))? {
            if let Some(detail) = progress.update(line) {
                step.progress(detail);
            }
        }
        Ok(())
    }
}

/// The engine pulls every tag of a name that has none.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

/// Whether an image is for `platform`, written `OS`, `ARCH`, or `OS/ARCH[/VARIANT]`.
fn is_for(image: &ImageInspect, platform: &str) -> bool {
    let os = image.os.as_deref().unwrap_or_default();
    let architecture = image.architecture.as_deref().unwrap_or_default();
    match platform.split('/').collect::<Vec<_>>()[..] {
        [one] => one == os || one == architecture,
        [wanted_os, wanted_architecture, ..] => wanted_os == os && wanted_architecture == architecture,
        [] => true,
    }
}

fn facts(image: ImageInspect) -> ImageFacts {
    let config = image.config.unwrap_or_default();
    ImageFacts {
        id: image.id.unwrap_or_default(),
        env: config.env.unwrap_or_default(),
        exposed_ports: config.exposed_ports.unwrap_or_default(),
        user: config.user.unwrap_or_default(),
        stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
    }
}

/// What the engine said, without the client library's words around it.
pub(super) fn sentence(error: &ApiError) -> String {
    match error {
        ApiError::DockerStreamError { error } => error.trim().to_owned(),
        other => refusal(other).map_or_else(|| other.to_string(), |(_, message)| message.to_owned()),
    }
}

/// Registries answer in words of their own; these are the ones that tell the three cures apart.
pub(super) fn pull_failure(image: &str, error: &ApiError) -> EngineError {
    const HIDDEN: [&str; 1] = ["pull access denied for"];
    const DENIED: [&str; 5] =
        ["unauthorized", "authentication required", "no basic auth credentials", "forbidden", "denied"];
    const UNREACHABLE: [&str; 9] = [
        "dial tcp",
        "no such host",
        "connection refused",
        "i/o timeout",
        "timeout exceeded",
        "deadline exceeded",
        "tls:",
        "x509:",
        "server gave http response",
    ];
    const UNKNOWN: [&str; 4] = ["manifest unknown", "not found", "does not exist", "no matching manifest"];

    let message = sentence(error);
    let lower = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|words| lower.contains(words));
    let image = image.to_owned();
    if says(&HIDDEN) {
        EngineError::ImageUnknown { image, message }
    } else if says(&UNREACHABLE) {
        EngineError::RegistryUnreachable { image, message }
    } else if says(&DENIED) {
        EngineError::ImageDenied { registry: credentials::registry_of(&image).to_owned(), image, message }
    } else if says(&UNKNOWN) {
        EngineError::ImageUnknown { image, message }
    } else {
        EngineError::Image { image, message }
    }
}

/// How far a pull is, over all of its layers.
#[derive(Debug, Default)]
struct Progress {
    layers: HashMap<String, (i64, i64)>,
    told: Option<Instant>,
}

impl Progress {
    /// Takes one line of the engine; gives a text when it is time for one.
    fn update(&mut self, line: CreateImageInfo) -> Option<String> {
        const DOWNLOADING: &str = "Downloading";
        if let (Some(id), Some(DOWNLOADING), Some(detail)) = (line.id, line.status.as_deref(), line.progress_detail) {
            self.layers.insert(id, (detail.current.unwrap_or(0), detail.total.unwrap_or(0)));
        }
        if self.layers.is_empty() || self.told.is_some_and(|told| told.elapsed() < PROGRESS_EVERY) {
            return None;
        }
        self.told = Some(Instant::now());
        let (current, total) =
            self.layers.values().fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1.max(layer.0)));
        Some(format!("{} of {} MB", current / 1_000_000, total / 1_000_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Explain;

    #[test]
    fn a_name_without_a_tag_means_latest() {
        assert_eq!(with_tag("busybox"), "busybox:latest");
        assert_eq!(with_tag("registry.example.com:5000/a"), "registry.example.com:5000/a:latest");
        assert_eq!(with_tag("a/b:1"), "a/b:1");
        assert_eq!(with_tag("a@sha256:00"), "a@sha256:00");
    }

    #[test]
    fn a_failed_pull_names_its_cure() {
        let failure = |message: &str| {
            let error = ApiError::DockerResponseServerError { status_code: 500, message: message.to_owned() };
            pull_failure("registry.example.com/a:1", &error)
        };
        let unknown = failure("manifest for registry.example.com/a:1 not found: manifest unknown");
        assert!(matches!(unknown, EngineError::ImageUnknown { .. }));
        let unreachable = failure("Get \"https://registry.example.com/v2/\": dial tcp: lookup registry: no such host");
        assert!(matches!(unreachable, EngineError::RegistryUnreachable { .. }));
        let denied = failure("Head \"https://registry.example.com/v2/a\": unauthorized: authentication required");
        assert_eq!(denied.hint().unwrap(), "docker login registry.example.com");
    }
}
