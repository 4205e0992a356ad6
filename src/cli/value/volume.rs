//! `-v` and `--mount`.

use super::Applied;
use crate::cli::Surroundings;
use crate::cli::draft::Draft;
use crate::cli::error::ValueError;
use crate::cli::grammar::boolean;
use crate::settings::{MountKind, MountSpec, VolumeChoice};

/// `[SOURCE:]TARGET[:MODE]`. As with docker, a source that begins with a dot is a path relative to the working
/// directory, an absolute one is itself, and any other is a volume's name; modes are the engine's to judge.
pub(in crate::cli) fn volume(draft: &mut Draft, value: &str, around: &Surroundings) -> Applied {
    let Some((source, rest)) = value.split_once(':') else {
        absolute(value)?;
        draft.app.binds.push(value.to_owned());
        return Ok(());
    };
    absolute(rest.split(':').next().unwrap_or_default())?;
    if rest.split(':').count() > 2 {
        return Err(ValueError::grammar("it has more than three parts"));
    }
    let source = if source.starts_with('.') {
        host_path(source, around)?
    } else if source.starts_with('/') {
        source.to_owned()
    } else if source.starts_with('~') {
        return Err(ValueError::grammar("the shell has not expanded the ~; write $HOME"));
    } else if source.is_empty() || source.contains('/') {
        return Err(ValueError::grammar(format!(
            "{source:?} is neither a path (which begins with / or ./) nor a volume's name"
        )));
    } else {
        source.to_owned()
    };
    draft.app.binds.push(format!("{source}:{rest}"));
    Ok(())
}

/// `NAME=skip|empty|copy|DIR`; a directory is written as a path, so that a typing error is not taken for one.
pub(in crate::cli) fn pod_volume(draft: &mut Draft, value: &str, around: &Surroundings) -> Applied {
    let (name, choice) = value.split_once('=').ok_or_else(|| ValueError::grammar("it has no ="))?;
    if name.is_empty() {
        return Err(ValueError::grammar("the volume's name is missing"));
    }
    let choice = match choice {
        "skip" => VolumeChoice::Skip,
        "empty" => VolumeChoice::Empty,
        "copy" => VolumeChoice::Copy,
        path if path.starts_with('/') => VolumeChoice::Laptop(path.to_owned()),
        path if path.starts_with('.') => VolumeChoice::Laptop(host_path(path, around)?),
        _ => {
            return Err(ValueError::grammar(format!(
                "{choice:?} is neither skip, empty, copy nor a path that begins with / or ./"
            )));
        }
    };
    match draft.pod_volumes.insert(name.to_owned(), choice) {
        None => Ok(()),
        Some(_) => Err(ValueError::grammar(format!("there are two choices for {name}"))),
    }
}

/// Comma-separated fields, quoted as in RFC 4180 where they hold commas.
pub(in crate::cli) fn mount(draft: &mut Draft, value: &str, around: &Surroundings) -> Applied {
    let (mut kind, mut source, mut target, mut read_only) = (MountKind::Volume, None, None, false);
    for field in fields(value)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        let needs = || ValueError::grammar(format!("{key} needs a value"));
        match key.as_str() {
            "type" => kind = mount_kind(value.ok_or_else(needs)?)?,
            "source" | "src" => source = Some(value.ok_or_else(needs)?.to_owned()),
            "target" | "dst" | "destination" => target = Some(value.ok_or_else(needs)?.to_owned()),
            "readonly" | "ro" => {
                read_only = boolean(value.unwrap_or("true"))
                    .ok_or_else(|| ValueError::grammar(format!("{key} takes true or false")))?;
            }
            _ if OTHER_MOUNT_KEYS.contains(&key.as_str()) => {
                return Err(ValueError::Unsupported {
                    what: format!("the mount option {key} is not supported yet"),
                    instead: "type, source, target and readonly are".into(),
                });
            }
            _ => return Err(ValueError::grammar(format!("{key:?} is not an option of a mount"))),
        }
    }
    let target = target.ok_or_else(|| ValueError::grammar("target is missing"))?;
    absolute(&target)?;
    let source = match (kind, source) {
        (MountKind::Bind, None) => return Err(ValueError::grammar("a bind mount needs a source")),
        (MountKind::Tmpfs, Some(_)) => return Err(ValueError::grammar("a tmpfs has no source")),
        (MountKind::Bind, Some(path)) if path.starts_with('.') => Some(host_path(&path, around)?),
        (MountKind::Bind, Some(path)) if !path.starts_with('/') => {
            return Err(ValueError::grammar(format!("the source {path:?} is not a path that begins with / or ./")));
        }
        (_, source) => source,
    };
    draft.app.mounts.push(MountSpec { kind, source, target, read_only });
    Ok(())
}

/// Docker's other mount options.
const OTHER_MOUNT_KEYS: &[&str] = &[
    "bind-nonrecursive",
    "bind-propagation",
    "bind-recursive",
    "consistency",
    "image-subpath",
    "tmpfs-mode",
    "tmpfs-size",
    "volume-driver",
    "volume-label",
    "volume-nocopy",
    "volume-opt",
    "volume-subpath",
];

fn mount_kind(text: &str) -> Result<MountKind, ValueError> {
    match text.to_ascii_lowercase().as_str() {
        "bind" => Ok(MountKind::Bind),
        "volume" => Ok(MountKind::Volume),
        "tmpfs" => Ok(MountKind::Tmpfs),
        "cluster" | "image" | "npipe" => Err(ValueError::Unsupported {
            what: format!("mounts of type {text} are not supported yet"),
            instead: "bind, volume and tmpfs are".into(),
        }),
        _ => Err(ValueError::grammar(format!("{text:?} is not a type of mount: bind, volume or tmpfs"))),
    }
}

/// One CSV record.
fn fields(text: &str) -> Result<Vec<String>, ValueError> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (field, after) = quoted_field(quoted)?;
            fields.push(field);
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None if after.is_empty() => return Ok(fields),
                None => return Err(ValueError::grammar("a quote ends in the middle of a field")),
            }
        } else {
            let (field, next) = rest.split_once(',').map_or((rest, None), |(field, next)| (field, Some(next)));
            if field.contains('"') {
                return Err(ValueError::grammar("a quote begins in the middle of a field"));
            }
            fields.push(field.to_owned());
            match next {
                Some(next) => rest = next,
                None => return Ok(fields),
            }
        }
    }
}

/// What stands behind an opening quote: the field, with doubled quotes undone, and what follows the closing one.
fn quoted_field(text: &str) -> Result<(String, &str), ValueError> {
    let mut field = String::new();
    let mut rest = text;
    while let Some((part, after)) = rest.split_once('"') {
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => return Ok((field, after)),
        }
    }
    Err(ValueError::grammar("a quote is not closed"))
}

/// Makes a path absolute without asking the file system, as Go's `filepath.Abs` does.
fn host_path(path: &str, around: &Surroundings) -> Result<String, ValueError> {
    let mut absolute = std::path::PathBuf::new();
    for part in around.cwd.join(path).components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                absolute.pop();
            }
            part => absolute.push(part),
        }
    }
    absolute
        .into_os_string()
        .into_string()
        .map_err(|path| ValueError::grammar(format!("{} is not valid UTF-8", path.to_string_lossy())))
}

fn absolute(path: &str) -> Applied {
    if path.starts_with('/') {
        Ok(())
    } else {
        Err(ValueError::grammar(format!("the path in the container, {path:?}, is not absolute")))
    }
}
