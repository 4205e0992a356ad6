//! What each flag's value means: one handler a row of [`super::flags::FLAGS`], the larger grammars in modules of their
//! own. Each follows the docker CLI's own reading of the value, and refuses what the engine would refuse later wherever
//! that can be seen without an engine.

mod duration;
mod env;
mod net;
mod publish;
mod reach;
mod swap;
mod volume;

pub(super) use duration::{grace, hold};
pub(super) use env::{env, env_file, label};
pub(super) use net::{add_host, dns, hostname, network};
pub(super) use publish::publish;
pub use reach::bypass_network;
pub(super) use reach::{bypass, container_to_host};
pub(super) use swap::{like, namespace, swap};
pub(super) use volume::{mount, pod_volume, volume};

use super::Surroundings;
use super::draft::Draft;
use super::error::ValueError;
use super::grammar::boolean;
use crate::settings::{InitContainers, OutputFormat, PullPolicy};

/// What every handler answers.
pub(super) type Applied = Result<(), ValueError>;

fn switch(value: &str) -> Result<bool, ValueError> {
    boolean(value).ok_or_else(|| ValueError::grammar("a switch takes true or false"))
}

fn not_empty(value: &str) -> Result<String, ValueError> {
    if value.is_empty() { Err(ValueError::grammar("it must not be empty")) } else { Ok(value.to_owned()) }
}

pub(super) fn context(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    draft.cluster.context = Some(not_empty(value)?);
    Ok(())
}

pub(super) fn proxy_image(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    draft.proxy_image = Some(not_empty(value)?);
    Ok(())
}

pub(super) fn skip_init_containers(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    draft.init_containers = if switch(value)? { InitContainers::Skip } else { InitContainers::Run };
    Ok(())
}

pub(super) fn take_over(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    draft.take_over = switch(value)?;
    Ok(())
}

pub(super) fn dry_run(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    draft.dry_run = switch(value)?;
    Ok(())
}

pub(super) fn output(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    draft.output = Some(match value {
        "text" => OutputFormat::Text,
        "json" => OutputFormat::Json,
        _ => return Err(ValueError::grammar("it is text or json")),
    });
    Ok(())
}

pub(super) fn verbose(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    draft.verbosity = if switch(value)? { draft.verbosity.saturating_add(1) } else { 0 };
    Ok(())
}

/// Acted upon before any other flag is looked at; what arrives here can only be `--help=false`.
pub(super) fn help(_: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    switch(value).map(drop)
}

#[expect(clippy::unnecessary_wraps, reason = "a row of the table, whose handlers share a type")]
pub(super) fn entrypoint(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    draft.app.entrypoint = Some(value.to_owned());
    Ok(())
}

pub(super) fn init(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    draft.app.init = switch(value)?;
    Ok(())
}

pub(super) fn interactive(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    draft.app.interactive = switch(value)?;
    Ok(())
}

pub(super) fn tty(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    draft.app.tty = switch(value)?;
    Ok(())
}

pub(super) fn rm(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    draft.app.rm = switch(value)?;
    Ok(())
}

/// The engine's rule for container names: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub(super) fn name(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    let ok = value.len() > 1
        && value.starts_with(|c: char| c.is_ascii_alphanumeric())
        && value.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if !ok {
        return Err(ValueError::grammar(
            "a container's name has at least two of the characters a-z A-Z 0-9 _ . - and begins with a letter or digit",
        ));
    }
    draft.app.name = Some(value.to_owned());
    Ok(())
}

pub(super) fn platform(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    draft.app.platform = Some(not_empty(value)?);
    Ok(())
}

pub(super) fn pull(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    draft.app.pull = match value {
        "always" => PullPolicy::Always,
        "missing" => PullPolicy::Missing,
        "never" => PullPolicy::Never,
        _ => return Err(ValueError::grammar("it is always, missing or never")),
    };
    Ok(())
}

/// An empty user or working directory is docker's way to say "the image's".
#[expect(clippy::unnecessary_wraps, reason = "a row of the table, whose handlers share a type")]
pub(super) fn user(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    draft.app.user = Some(value.to_owned()).filter(|user| !user.is_empty());
    Ok(())
}

pub(super) fn workdir(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    if !value.is_empty() && !value.starts_with('/') {
        return Err(ValueError::grammar("a working directory in the container is an absolute path"));
    }
    draft.app.workdir = Some(value.to_owned()).filter(|dir| !dir.is_empty());
    Ok(())
}
