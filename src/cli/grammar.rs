//! Docker's own command-line grammar, without any knowledge of what a flag means.
//!
//! `docker run` parses with Go's pflag in its non-interspersed mode: flags up to the first positional argument, which
//! is the image, and nothing after it is looked at. Everything people rely on without knowing follows from pflag's
//! rules (`-it`, `-v$(pwd):/x`, `-e=A=B`, `-it=false`, a value that looks like a flag), so they are kept to the
//! letter. An argument after the image belongs to the app, whatever it looks like.

use super::error::UsageError;
use super::flags::{Arity, Flag};

/// One flag as it was given.
#[derive(Debug, Clone)]
pub struct Given {
    /// Its row.
    pub flag: &'static Flag,
    /// Its value; `true` for a switch without one.
    pub value: String,
}

/// The arguments of `run`, taken apart.
#[derive(Debug, Default)]
pub struct Split {
    /// The flags, in order.
    pub given: Vec<Given>,
    /// The image and what follows it.
    pub rest: Vec<String>,
}

/// What a flag lookup answers: its row, or why there is none.
pub trait Table {
    /// By the name after `--`.
    fn long(&self, name: &str) -> Result<&'static Flag, UsageError>;
    /// By the letter after `-`.
    fn short(&self, letter: char) -> Result<&'static Flag, UsageError>;
}

/// Takes `args` apart into `split`, which holds what was understood up to an error.
pub fn split(args: &[String], table: &impl Table, split: &mut Split) -> Result<(), UsageError> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            break;
        }
        if let Some(long) = arg.strip_prefix("--") {
            split.given.push(long_flag(long, &mut args, table)?);
        } else if let Some(shorts) = arg.strip_prefix('-').filter(|shorts| !shorts.is_empty()) {
            short_flags(shorts, &mut args, table, &mut split.given)?;
        } else {
            split.rest.push(arg.clone());
            break;
        }
    }
    split.rest.extend(args.cloned());
    Ok(())
}

fn long_flag<'a>(
    text: &str,
    args: &mut impl Iterator<Item = &'a String>,
    table: &impl Table,
) -> Result<Given, UsageError> {
    let (name, attached) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    if name.is_empty() || name.starts_with('-') {
        return Err(UsageError::BadSyntax { argument: format!("--{text}") });
    }
    let flag = table.long(name)?;
    let value = match (attached, flag.arity) {
        (Some(value), _) => value,
        (None, Arity::Switch) => "true".to_owned(),
        (None, Arity::Value(_)) => next_value(flag, format!("--{name}"), args)?,
    };
    Ok(Given { flag, value })
}

/// pflag's `parseShortArg`: letters until one takes a value, which is the rest of the argument or the next one.
fn short_flags<'a>(
    text: &str,
    args: &mut impl Iterator<Item = &'a String>,
    table: &impl Table,
    given: &mut Vec<Given>,
) -> Result<(), UsageError> {
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let flag = table.short(letter)?;
        rest = &rest[letter.len_utf8()..];
        if let Some(value) = rest.strip_prefix('=').filter(|value| !value.is_empty()) {
            given.push(Given { flag, value: value.to_owned() });
            return Ok(());
        }
        match flag.arity {
            Arity::Switch => given.push(Given { flag, value: "true".to_owned() }),
            Arity::Value(_) => {
                let value =
                    if rest.is_empty() { next_value(flag, format!("-{letter}"), args)? } else { rest.to_owned() };
                given.push(Given { flag, value });
                return Ok(());
            }
        }
    }
    Ok(())
}

fn next_value<'a>(
    flag: &'static Flag,
    typed: String,
    args: &mut impl Iterator<Item = &'a String>,
) -> Result<String, UsageError> {
    args.next().cloned().ok_or(UsageError::MissingValue { typed, long: flag.long })
}

/// A switch's value, as Go's `strconv.ParseBool` reads it.
pub fn boolean(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}
