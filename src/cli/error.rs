//! What can be wrong with a command line, always answered with exit code 2 before anything was touched.

use crate::error::{Code, Explain};

/// A command line that tpdocker does not act on.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// An argument is not UTF-8; the engine's API carries JSON, so it could not be passed on.
    #[error("argument {position} is not valid UTF-8: {shown}")]
    NotUtf8 {
        /// Its place, counted from 1.
        position: usize,
        /// As far as it can be shown.
        shown: String,
    },
    /// The working directory is gone or out of reach, and relative paths with it.
    #[error("cannot tell the working directory")]
    WorkingDirectory(#[source] std::io::Error),
    /// `--=x`, `---x`.
    #[error("bad flag syntax: {argument}")]
    BadSyntax {
        /// As typed.
        argument: String,
    },
    /// Nobody's flag.
    #[error("unknown flag {typed}")]
    UnknownFlag {
        /// With its dashes.
        typed: String,
        /// What to type instead.
        instead: Option<String>,
    },
    /// A flag of `docker run` that tpdocker does not carry out.
    #[error("docker's {typed} is not supported yet")]
    NotYet {
        /// With its dashes.
        typed: String,
        /// What there is instead.
        instead: Option<&'static str>,
    },
    /// A flag at the end of the line, without the value it takes.
    #[error("{typed} needs a value")]
    MissingValue {
        /// With its dashes.
        typed: String,
        /// The flag's long name.
        long: &'static str,
    },
    /// A flag's value that makes no sense.
    #[error("invalid value {value:?} for --{flag}")]
    BadValue {
        /// The flag's long name.
        flag: &'static str,
        /// As typed.
        value: String,
        /// What is wrong with it.
        source: ValueError,
    },
    /// One of tpdocker's own flags, given twice.
    #[error("--{flag} was given more than once")]
    Repeated {
        /// The flag's long name.
        flag: &'static str,
    },
    /// Both of what excludes each other.
    #[error("--swap and --like exclude each other: the first takes a workload's traffic, the second takes none")]
    SwapAndLike,
    /// `--take-over` where there is nothing to take.
    #[error("--take-over needs --swap: it takes a workload from the session that holds it")]
    TakeOverNothing,
    /// `run` without an image.
    #[error("`tpdocker run` needs an image")]
    NoImage,
    /// Everything outside of `run`, in clap's words.
    #[error("{message}")]
    Clap {
        /// clap's message.
        message: String,
        /// clap's tip, or where to read more.
        tip: String,
    },
}

/// What is wrong with one value.
#[derive(Debug, thiserror::Error)]
pub enum ValueError {
    /// It does not follow the flag's grammar.
    #[error("{0}")]
    Grammar(String),
    /// It is fine for docker, and tpdocker cannot do it.
    #[error("{what}")]
    Unsupported {
        /// What cannot be done, and why.
        what: String,
        /// What to do instead.
        instead: String,
    },
    /// It names a file that cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

impl ValueError {
    /// A grammar error.
    pub(super) fn grammar(text: impl Into<String>) -> Self {
        Self::Grammar(text.into())
    }
}

impl Explain for UsageError {
    fn code(&self) -> Code {
        Code::Usage
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::WorkingDirectory(_) => Some("cd to a directory that exists".into()),
            Self::UnknownFlag { instead, .. } => Some(match instead {
                Some(instead) => format!("did you mean {instead}? {FOR_THE_APP}"),
                None => format!("{SEE_HELP}; {FOR_THE_APP}"),
            }),
            Self::NotYet { instead, .. } => Some(instead.map_or_else(|| SEE_HELP.into(), Into::into)),
            Self::MissingValue { typed, .. } if typed == "-h" => {
                Some("-h is docker's --hostname here; `tpdocker run --help` prints the help".into())
            }
            Self::MissingValue { long, .. } => Some(format!("--{long}=VALUE; {SEE_HELP}")),
            Self::BadValue { source: ValueError::Unsupported { instead, .. }, .. } => Some(instead.clone()),
            Self::NotUtf8 { .. } | Self::BadValue { source: ValueError::File { .. }, .. } => None,
            Self::BadSyntax { .. } | Self::BadValue { .. } | Self::Repeated { .. } => Some(SEE_HELP.into()),
            Self::SwapAndLike => Some("--swap alone gives environment and files as well".into()),
            Self::TakeOverNothing => Some("tpdocker run --take-over --swap NAME IMAGE".into()),
            Self::NoImage => Some("tpdocker run [--swap SERVICE] [FLAGS] IMAGE [COMMAND] [ARG...]".into()),
            Self::Clap { tip, .. } => Some(tip.clone()),
        }
    }
}

const SEE_HELP: &str = "`tpdocker run --help` lists the flags";
const FOR_THE_APP: &str = "flags of the app go after the image";
