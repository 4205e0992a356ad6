//! `--hold` and `--grace`: durations, as docker's own flags and Kubernetes write them (Go's `time.ParseDuration`, without fractions).

use std::str::FromStr;
use std::time::Duration;

use super::Applied;
use crate::cli::Surroundings;
use crate::cli::draft::Draft;
use crate::cli::error::ValueError;
use crate::settings::{Grace, Hold};

/// Nobody waits longer for an answer to a connection.
const LONGEST_HOLD: Duration = Duration::from_hours(1);
/// A laptop may sleep for a night; nobody leaves a service without an answer for longer, and tokens are to be short-lived.
const LONGEST_GRACE: Duration = Duration::from_hours(24);

pub(in crate::cli) fn hold(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    draft.hold = value.parse()?;
    Ok(())
}

pub(in crate::cli) fn grace(draft: &mut Draft, value: &str, _: &Surroundings) -> Applied {
    draft.grace = value.parse()?;
    Ok(())
}

impl FromStr for Hold {
    type Err = ValueError;

    /// `10s`, `1m30s`, `500ms`, `0`.
    fn from_str(value: &str) -> Result<Self, ValueError> {
        bounded(value, LONGEST_HOLD, "it is at most an hour").map(Self)
    }
}

impl FromStr for Grace {
    type Err = ValueError;

    /// As [`Hold`].
    fn from_str(value: &str) -> Result<Self, ValueError> {
        bounded(value, LONGEST_GRACE, "it is at most 24 hours").map(Self)
    }
}

fn bounded(value: &str, longest: Duration, limit: &'static str) -> Result<Duration, ValueError> {
    match duration(value) {
        Some(duration) if duration <= longest => Ok(duration),
        Some(_) => Err(ValueError::grammar(limit)),
        None => Err(ValueError::grammar("it is 0, or numbers with units, such as 10s, 500ms or 1m30s")),
    }
}

fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut sum) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let (number, behind) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (unit, behind) = behind.split_at(behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len()));
        let millis = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        sum = sum.checked_add(Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(millis)?))?;
        rest = behind;
    }
    (!text.is_empty()).then_some(sum)
}
