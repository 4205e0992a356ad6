//! What can go wrong, the cure, and the exit code that scripts branch on.
//!
//! Two tiers: what happens in the user's world is typed, says its cause once and, where there is one, the command that
//! cures it; anything else is a bug of ours and says so. The table in `docs/exit-codes.md` is checked against [`Code`].

/// Declares [`Code`] once: the variants, their list, their names for scripts and, from their doc comments, their
/// meaning for people. A variant that is missing from the list, or has no meaning, cannot be written.
macro_rules! codes {
    ($($(#[doc = $meaning:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// Exit codes of tpdocker itself. The app's own code is passed on verbatim, and 125, 126 and 127 mean what
        /// they mean to `docker run`, so ours keep to 80–99 (and 2 for the command line, as everywhere).
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Code {
            $($(#[doc = $meaning])+ $variant = $number,)+
        }

        impl Code {
            /// Every code, in ascending order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The stable name that scripts see in `--output json`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What it means, in one sentence.
            pub fn meaning(self) -> String {
                match self {
                    $(Self::$variant => [$($meaning.trim()),+].join(" "),)+
                }
            }
        }
    };
}

codes! {
    /// The command line or a file it names is wrong; nothing was touched.
    Usage = 2, "usage";
    /// A bug in tpdocker.
    Bug = 80, "bug";
    /// No usable kubeconfig, context, login or API server.
    Kubeconfig = 81, "kubeconfig";
    /// The workload, its container or its namespace does not exist or cannot be swapped.
    Workload = 82, "workload";
    /// A right is missing in the cluster.
    Forbidden = 83, "forbidden";
    /// The proxy pod did not start: image, quota, scheduling, admission.
    Proxy = 84, "proxy";
    /// The Docker engine is missing, unreachable or unable.
    Engine = 85, "engine";
    /// The image of the app cannot be had.
    Image = 86, "image";
    /// The engine refused the container: port already bound, name in use, bad mount.
    Container = 87, "container";
    /// The tunnel could not be built or was lost, or its sidecar container is gone.
    Tunnel = 88, "tunnel";
    /// Somebody else's session holds the workload, or has taken it over.
    Held = 89, "held";
    /// The original could not be put back entirely; the message says what is left and how to repair it.
    Restore = 90, "restore";
    /// This machine lacks what a session needs: a private directory, descriptors, threads, a place for its output.
    Host = 91, "host";
    /// The engine could not run the container (`docker run`: 125).
    DockerDaemon = 125, "docker-daemon";
    /// The container's command cannot be invoked (`docker run`: 126).
    CannotInvoke = 126, "cannot-invoke";
    /// The container's command was not found (`docker run`: 127).
    NotFound = 127, "not-found";
}

impl From<Code> for u8 {
    fn from(code: Code) -> Self {
        code as Self
    }
}

/// What every typed error of the user's world can tell beside its message.
pub trait Explain: std::error::Error + Send + Sync + 'static {
    /// The exit code.
    fn code(&self) -> Code;
    /// What to do about it: a command one can paste, or a sentence when there is none.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// Any failure of a command, on its way to `main`.
#[derive(Debug)]
pub struct Error(Box<dyn Explain>);

impl<E: Explain> From<E> for Error {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl Error {
    /// The exit code.
    pub fn code(&self) -> Code {
        self.0.code()
    }

    /// The cure.
    pub fn hint(&self) -> Option<String> {
        self.0.hint()
    }

    /// The message, then each cause once, outermost first.
    pub fn chain(&self) -> Vec<String> {
        let mut chain = vec![self.0.to_string()];
        let mut source = self.0.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Libraries repeat their source in their own text; once is enough.
            if !chain.last().is_some_and(|above| above.contains(&text)) {
                chain.push(text);
            }
            source = cause.source();
        }
        chain
    }
}

/// This machine does not give what any program needs: descriptors, threads, randomness, an output that takes output.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct HostError {
    what: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl HostError {
    /// Shows as `what`, a lowercase fragment, and then as `source`.
    pub fn new(what: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { what, source: source.into() }
    }
}

impl Explain for HostError {
    fn code(&self) -> Code {
        Code::Host
    }
}

/// Something that cannot happen did: an error that no typed error of the user's world stands for.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Bug {
    what: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Bug {
    /// A bug that shows as `what`, a lowercase fragment.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }

    /// A bug that shows as `what` and was caused by `source`.
    pub fn caused_by(what: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { what: what.into(), source: Some(source.into()) }
    }
}

impl Explain for Bug {
    fn code(&self) -> Code {
        Code::Bug
    }

    fn hint(&self) -> Option<String> {
        Some(
            "this is a bug in tpdocker: please report it with the command line, the output of the same command with \
             `-vv` in front of it (`tpdocker -vv run …`; look it over for secrets first) and that of `tpdocker version`"
                .into(),
        )
    }
}
