//! The command line of `tpdocker-sidecar`, which only the CLI and the image write.

use tracing::level_filters::LevelFilter;

/// What the process was started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Be PID 1 and keep a data plane running.
    Hold,
    /// Be the data plane.
    Run,
    /// Be the engine's health check.
    Healthy,
}

/// The arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Args {
    /// What to be.
    pub role: Role,
    /// Verbosity of stderr, which is the container's log.
    pub log: LevelFilter,
}

/// Why the command line means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// No such role or option.
    #[error("usage: tpdocker-sidecar hold|run|healthy [--log LEVEL]")]
    Usage,
    /// No such level.
    #[error("{0} is no level: off, error, warn, info, debug or trace")]
    Level(String),
}

impl Args {
    /// Reads the arguments after the program's name.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, ArgsError> {
        let mut arguments = arguments.into_iter();
        let role = match arguments.next().as_deref() {
            Some("hold") => Role::Hold,
            Some("run") => Role::Run,
            Some("healthy") => Role::Healthy,
            _ => return Err(ArgsError::Usage),
        };
        let log = match (arguments.next().as_deref(), arguments.next()) {
            (None, _) => LevelFilter::WARN,
            (Some("--log"), Some(level)) => level.parse().map_err(|_| ArgsError::Level(level))?,
            _ => return Err(ArgsError::Usage),
        };
        if arguments.next().is_some() {
            return Err(ArgsError::Usage);
        }
        Ok(Self { role, log })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, ArgsError> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn every_role_is_known_and_the_log_is_quiet_unless_asked() {
        assert_eq!(parse("hold"), Ok(Args { role: Role::Hold, log: LevelFilter::WARN }));
        assert_eq!(parse("run --log debug"), Ok(Args { role: Role::Run, log: LevelFilter::DEBUG }));
        assert_eq!(parse("healthy"), Ok(Args { role: Role::Healthy, log: LevelFilter::WARN }));
    }

    #[test]
    fn anything_else_is_an_error() {
        for line in ["", "serve", "run --log", "run -v", "run --log info more"] {
            assert_eq!(parse(line), Err(ArgsError::Usage), "{line}");
        }
        assert_eq!(parse("run --log loud"), Err(ArgsError::Level("loud".into())));
    }
}
