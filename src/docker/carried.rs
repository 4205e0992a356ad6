//! The images that this binary carries, on their way into the engine and from there to a registry.

use bollard::query_parameters::{ImportImageOptions, PushImageOptions, TagImageOptions};
use futures_util::{StreamExt, TryStreamExt};

use super::credentials;
use super::engine::Engine;
use super::error::EngineError;
use super::images::{pull_failure, sentence};
use crate::event::Reporter;
use crate::image::{self, CarriedImage};

impl Engine {
    /// Loads the sidecar's image when the engine does not have it.
    pub async fn ensure_sidecar_image(&self, reporter: &Reporter) -> Result<(), EngineError> {
        self.ensure_carried(image::sidecar(), "sidecar image", reporter).await
    }

    /// Loads the proxy's image when the engine does not have it; gives its reference.
    pub async fn load_proxy_image(&self, reporter: &Reporter) -> Result<&'static str, EngineError> {
        let carried = image::proxy();
        self.ensure_carried(carried, "proxy image", reporter).await?;
        Ok(carried.reference())
    }

    /// Pushes the proxy's image as `target`, under the tag of this release when it names none; gives the reference
    /// for `--proxy-image`.
    pub async fn push_proxy_image(&self, target: &str, reporter: &Reporter) -> Result<String, EngineError> {
        let source = self.load_proxy_image(reporter).await?;
        let (repository, tag) = split(target, source);
        let reference = format!("{repository}:{tag}");
        let step = reporter.step("push");
        step.progress(reference.clone());
        let options = TagImageOptions { repo: Some(repository.clone()), tag: Some(tag.clone()) };
        let failed = |error: &_| EngineError::Image { image: reference.clone(), message: sentence(error) };
        self.api.tag_image(source, Some(options)).await.map_err(|error| failed(&error))?;
        let login = credentials::for_image(&self.config.file, &reference).await?;
        let options = PushImageOptions { tag: Some(tag), ..Default::default() };
        let mut lines = self.api.push_image(&repository, Some(options), login);
        while lines.try_next().await.map_err(|error| pull_failure(&reference, &error))?.is_some() {}
        step.done(reference.clone());
        Ok(reference)
    }

    async fn ensure_carried(
        &self,
        carried: &CarriedImage,
        what: &'static str,
        reporter: &Reporter,
    ) -> Result<(), EngineError> {
        let reference = carried.reference();
        let failed = |message: String| EngineError::Image { image: reference.to_owned(), message };
        if self.inspect(reference).await?.is_some() {
            return Ok(());
        }
        let step = reporter.step(what);
        let options = ImportImageOptions { quiet: true, ..Default::default() };
        let tar = carried.to_tar().map_err(|error| failed(error.to_string()))?;
        let body = bollard::body_full(tar.into());
        let mut loading = self.api.import_image(options, body, None);
        while let Some(line) = loading.next().await {
            line.map_err(|error| failed(sentence(&error)))?;
        }
        // The engine reports some failures inside of a successful answer only.
        if self.inspect(reference).await?.is_none() {
            return Err(failed("the engine took it and does not have it".to_owned()));
        }
        step.done(reference);
        Ok(())
    }
}

/// Repository and tag of `target`; the tag of `source` when it has none.
fn split(target: &str, source: &str) -> (String, String) {
    let last = target.rfind('/').map_or(0, |slash| slash + 1);
    match target[last..].rsplit_once(':') {
        Some((name, tag)) => (format!("{}{name}", &target[..last]), tag.to_owned()),
        None => {
            let tag = source.rsplit_once(':').map_or("latest", |(_, tag)| tag);
            (target.to_owned(), tag.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_without_a_tag_gets_that_of_the_release_and_a_registrys_port_is_no_tag() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            split("registry:5000/tools/proxy", "tpdocker/proxy:0.1.0-abc"),
            pair("registry:5000/tools/proxy", "0.1.0-abc")
        );
        assert_eq!(split("registry:5000/proxy:7", "tpdocker/proxy:0.1.0-abc"), pair("registry:5000/proxy", "7"));
    }
}
