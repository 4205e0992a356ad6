//! What volumes give: every file with its mode, its owner and its content; and how a change arrives.

use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::string::FromUtf8Error;
use std::thread;
use std::time::{Duration, Instant};

use crate::context::Context;

/// Whoever starts the probe sees this line on its standard error, and changes what the live file holds.
const CHANGE: &str = "@change";
/// The kubelet looks at its volumes once a minute, give or take half of it.
const CHANGED_WITHIN: Duration = Duration::from_secs(100);
/// How often a file is read that is about to change: often enough to catch it half written.
const EYE: Duration = Duration::from_millis(2);
/// A file shorter than this is shown.
const SHOWN: usize = 100;

pub fn run(context: &Context) {
    for volume in &context.targets.volumes {
        walk(context, volume, volume);
        context.row(&format!("files{}: write", volume.display()), || write(volume));
    }
    context.row(&format!("files{}/value: changes", context.targets.live.display()), || changes(context));
}

/// A row for the path, and for everything below it.
fn walk(context: &Context, path: &Path, top: &Path) {
    let name = format!("files{}", stamp_free(&path.display().to_string()));
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return context.says(&name, &crate::said::error(&error)),
    };
    context.row(&name, || describe(context, path, &metadata));
    // A mount may be a link's target.
    let inside = metadata.is_dir() || path == top && path.is_dir();
    if !inside {
        return;
    }
    match fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
        Ok(mut entries) => {
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                walk(context, &entry.path(), top);
            }
        }
        Err(error) => context.says(&format!("{name}: list"), &crate::said::error(&error)),
    }
}

fn describe(context: &Context, path: &Path, metadata: &Metadata) -> io::Result<String> {
    let kind = metadata.file_type();
    let owner = format!("{:04o} {}:{}", metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
    if kind.is_symlink() {
        return Ok(format!("link to {}", stamp_free(&fs::read_link(path)?.display().to_string())));
    }
    if kind.is_dir() {
        return Ok(format!("directory {owner}"));
    }
    if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
        return Ok(format!("special {owner}"));
    }
    Ok(format!("file {owner}, {}", content(context, path)?))
}

fn content(context: &Context, path: &Path) -> io::Result<String> {
    let bytes = fs::read(path)?;
    if let Some(claims) = claims(&bytes) {
        return Ok(format!("token of {claims}"));
    }
    Ok(if bytes.len() < SHOWN {
        let text = String::from_utf8(bytes).map(|text| context.normal(&text).into_bytes());
        format!("\"{}\"", text.unwrap_or_else(FromUtf8Error::into_bytes).escape_ascii())
    } else {
        format!("{} bytes, {}", bytes.len(), digest(&bytes))
    })
}

/// Whose a JSON web token is, and for whom (RFC 7519): the rest of it differs each time.
fn claims(token: &[u8]) -> Option<String> {
    let payload = std::str::from_utf8(token).ok()?.trim().strip_prefix("eyJ")?.split('.').nth(1)?.to_owned();
    let claims: serde_json::Value = serde_json::from_slice(&base64url(&payload)?).ok()?;
    Some(format!("{} for {}", claims["sub"], claims["aud"]))
}

/// RFC 4648, section 5, without padding.
fn base64url(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for character in text.bytes() {
        let value = ALPHABET.iter().position(|it| *it == character)?;
        bits = bits << 6 | u32::try_from(value).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xFF).ok()?);
        }
    }
    Some(bytes)
}

/// The kubelet's directories of one moment, `..2026_01_31_23_59_59.123456789`, without the moment.
fn stamp_free(path: &str) -> String {
    let parts = path.split('/').map(|part| if part.starts_with("..2") { "..MOMENT" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

fn write(volume: &Path) -> io::Result<String> {
    if volume.is_dir() {
        let file = volume.join("written-by-the-probe");
        fs::write(&file, "hello")?;
        let back = fs::read_to_string(&file)?;
        fs::remove_file(&file)?;
        return Ok(format!("read back {back:?}"));
    }
    let same = fs::read(volume)?;
    fs::OpenOptions::new().write(true).open(volume)?.write_all(&same).map(|()| "written".to_owned())
}

/// The live file holds one word again and again: every read is to be whole, before, after and while it changes.
fn changes(context: &Context) -> io::Result<String> {
    let file = context.targets.live.join("value");
    let before = fs::read_to_string(&file)?;
    let moment = fs::read_link(context.targets.live.join("..data"))?;
    eprintln!("{CHANGE}");
    let began = Instant::now();
    loop {
        let text = fs::read_to_string(&file)?;
        let mut words = text.split_whitespace();
        let first = words.next();
        if !words.all(|word| Some(word) == first) || text.len() != before.len() {
            return Ok("half of a change was seen".to_owned());
        }
        if text != before {
            let link = fs::read_link(context.targets.live.join("..data"))?;
            return Ok(format!("arrived whole, {}", if link == moment { "in place" } else { "by a swapped link" }));
        }
        if began.elapsed() > CHANGED_WITHIN {
            return Ok(format!("has not arrived after {} s", CHANGED_WITHIN.as_secs()));
        }
        thread::sleep(EYE);
    }
}

/// FNV-1a, 64 bits: enough to tell two contents apart.
pub fn digest(bytes: &[u8]) -> String {
    let hash = bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3));
    format!("digest {hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_is_decoded() {
        assert_eq!(base64url("eyJhIjoxfQ").unwrap(), br#"{"a":1}"#);
        assert_eq!(base64url("-_8").unwrap(), [0xFB, 0xFF]);
        assert_eq!(base64url("a+b"), None);
    }

    #[test]
    fn a_token_is_said_by_whose_it_is() {
        let token = format!("eyJhbGciOiJub25lIn0.{}.x", "eyJzdWIiOiJtZSIsImF1ZCI6WyJ5b3UiXX0");
        assert_eq!(claims(token.as_bytes()).unwrap(), r#""me" for ["you"]"#);
    }

    #[test]
    fn moments_are_left_out_of_paths() {
        assert_eq!(stamp_free("/etc/x/..2026_01_31_23_59_59.1/key"), "/etc/x/..MOMENT/key");
        assert_eq!(stamp_free("..data/key"), "..data/key");
    }
}
