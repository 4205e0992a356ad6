//! The part of the command line that clap reads: everything but the arguments of `run`.
//!
//! `-v` is not a global flag in clap's sense: behind `compose up` and `compose down` it is docker compose's.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::error::UsageError;
use super::{Surroundings, help};
use crate::settings::{
    ClusterSettings, Command, ComposeAction, ComposeSettings, DoctorSettings, ImageSettings, OutputFormat,
    RbacSettings, RbacTarget, RestoreSettings, Settings, StatusSettings, StopSettings, Subject, SwapTarget, Which,
};

/// Run a container on your laptop as if it were a pod of your Kubernetes cluster.
#[derive(Debug, Parser)]
#[command(name = "tpdocker", version, max_term_width = 120, arg_required_else_help = false)]
#[command(after_help = "Exit codes: the app's own; 2 for a wrong command line; 80 to 91, 125, 126 and 127 as in \
                        docs/exit-codes.md.")]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) globals: Globals,
    #[command(subcommand)]
    command: Sub,
}

/// Flags of every command.
#[derive(Debug, Default, Clone, Args)]
pub(super) struct Globals {
    /// Log to stderr; again for more.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// How steps and errors are told on stderr: lines for people, or one JSON object a line.
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub(super) output: Option<Format>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

impl From<Format> for OutputFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Text => Self::Text,
            Format::Json => Self::Json,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Run a container as a pod of the cluster, or in the place of a workload; takes docker run's flags.
    #[command(disable_help_flag = true, override_help = help::run())]
    Run,
    /// Run a compose project whose services stand in for workloads.
    Compose(ComposeArgs),
    /// Handle the proxy image that this binary carries.
    Image(ImageArgs),
    /// Check what a session needs, and look for what is left of one.
    Doctor(DoctorArgs),
    /// Print the smallest Role that a session needs.
    Rbac(RbacArgs),
    /// Put a swapped workload back, whoever swapped it, from any machine.
    Restore(RestoreArgs),
    /// Show the sessions of this machine and what is swapped in the cluster.
    Status(StatusArgs),
    /// End a session of this machine, or clean up after one that died.
    Stop(StopArgs),
    /// Print the version.
    Version(Globals),
}

#[derive(Debug, Args)]
struct DoctorArgs {
    #[command(flatten)]
    globals: Globals,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// What is to be swapped, as for `run`: its rights and its proxy are checked.
    #[arg(long, value_name = "[KIND/]NAME[:CONTAINER]")]
    swap: Option<SwapTarget>,
    /// The proxy image, when not the one that belongs to this binary or that `TPDOCKER_PROXY_IMAGE` names.
    #[arg(long, value_name = "REF")]
    proxy_image: Option<String>,
}

#[derive(Debug, Args)]
struct RbacArgs {
    #[command(flatten)]
    globals: Globals,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// What is to be swapped, as for `run`, or a kind of workload; everything when absent.
    #[arg(long, value_name = "[KIND/]NAME|KIND")]
    swap: Option<RbacTarget>,
    /// What a session is to be like, as for `run`: it swaps nothing.
    #[arg(long, value_name = "[KIND/]NAME", conflicts_with = "swap")]
    like: Option<SwapTarget>,
    /// For sessions that swap nothing and are like nothing.
    #[arg(long, conflicts_with_all = ["swap", "like"])]
    outgoing: bool,
    /// Bind it to this user; may be repeated.
    #[arg(long = "user", value_name = "NAME")]
    users: Vec<String>,
    /// Bind it to this group; may be repeated.
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// Bind it to this service account of the namespace; may be repeated.
    #[arg(long = "service-account", value_name = "NAME")]
    service_accounts: Vec<String>,
}

#[derive(Debug, Args)]
struct RestoreArgs {
    #[command(flatten)]
    globals: Globals,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// What is swapped, as for `--swap`.
    #[arg(value_name = "[KIND/]NAME", required_unless_present = "all", conflicts_with = "all")]
    target: Option<SwapTarget>,
    /// All that is swapped in the namespace, and what dead sessions left.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    globals: Globals,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Look in all namespaces.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
}

#[derive(Debug, Args)]
struct StopArgs {
    #[command(flatten)]
    globals: Globals,
    /// Its id, as `tpdocker status` shows it; not needed when there is only one.
    #[arg(value_name = "SESSION", conflicts_with = "all")]
    session: Option<String>,
    /// All sessions of this machine.
    #[arg(long)]
    all: bool,
    /// After sessions that died, remove what is on this machine and ask no cluster: theirs is gone for good.
    #[arg(long)]
    local: bool,
}

#[derive(Debug, Args)]
#[command(arg_required_else_help = false)]
struct ComposeArgs {
    #[command(flatten)]
    globals: Globals,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// A compose file; may be repeated, as with docker compose.
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Name of the compose project.
    #[arg(short, long, value_name = "NAME")]
    project_name: Option<String>,
    /// A profile to enable; may be repeated.
    #[arg(long = "profile", value_name = "NAME")]
    profiles: Vec<String>,
    /// An environment file for the compose file's variables; may be repeated.
    #[arg(long = "env-file", value_name = "FILE")]
    env_files: Vec<PathBuf>,
    /// The proxy image, when not the one that belongs to this binary or that `TPDOCKER_PROXY_IMAGE` names.
    #[arg(long, value_name = "REF")]
    proxy_image: Option<String>,
    /// Take the workloads over from the sessions that hold them.
    #[arg(long)]
    take_over: bool,
    #[command(subcommand)]
    action: ComposeSub,
}

#[derive(Debug, Args)]
struct ClusterArgs {
    /// Namespace; the context's when absent.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Context of the kubeconfig; the current one when absent.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

#[derive(Debug, Subcommand)]
enum ComposeSub {
    /// Swap, start the project, and restore when it ends.
    Up(ComposeRest),
    /// Stop the project and restore what it swapped.
    Down(ComposeRest),
}

#[derive(Debug, Args)]
struct ComposeRest {
    /// Passed on to docker compose as they are.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARG")]
    args: Vec<String>,
}

#[derive(Debug, Args)]
#[command(arg_required_else_help = false)]
struct ImageArgs {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    action: ImageSub,
}

#[derive(Debug, Subcommand)]
enum ImageSub {
    /// Write it as a tar that `docker load` and `ctr images import` take.
    Save {
        #[command(flatten)]
        globals: Globals,
        /// Where to; stdout when absent.
        #[arg(short = 'o', long = "file", value_name = "FILE")]
        output_file: Option<PathBuf>,
    },
    /// Load it into the Docker engine.
    Load(Globals),
    /// Push it to a registry.
    Push {
        #[command(flatten)]
        globals: Globals,
        /// The reference to push it as, such as registry.example.com/team/tpdocker-proxy:1.
        #[arg(value_name = "REF")]
        reference: String,
    },
}

impl Globals {
    fn and(&self, inner: &Self) -> Self {
        Self { verbose: self.verbose.saturating_add(inner.verbose), output: inner.output.or(self.output) }
    }
}

impl Cli {
    /// What it means. `run` is read elsewhere: without it in sight this is a mistake of the caller's, answered as the
    /// missing image it would be.
    pub(super) fn settings(self, around: &Surroundings) -> Result<Settings, UsageError> {
        let outer = self.globals;
        let (globals, command) = match self.command {
            Sub::Run => return Err(UsageError::NoImage),
            Sub::Version(globals) => (globals, Command::Version),
            Sub::Compose(args) => (args.globals.clone(), Command::Compose(args.settings(around))),
            Sub::Doctor(DoctorArgs { globals, cluster, swap, proxy_image }) => {
                let proxy_image = proxy_image.or_else(|| around.proxy_image());
                (globals, Command::Doctor(DoctorSettings { cluster: cluster.into(), swap, proxy_image }))
            }
            Sub::Rbac(args) => (args.globals.clone(), Command::Rbac(args.into())),
            Sub::Restore(args) => {
                let cluster = args.cluster.into();
                (args.globals, Command::Restore(RestoreSettings { cluster, target: args.target }))
            }
            Sub::Status(StatusArgs { globals, cluster, all_namespaces }) => {
                (globals, Command::Status(StatusSettings { cluster: cluster.into(), all_namespaces }))
            }
            Sub::Stop(StopArgs { globals, session, all, local }) => {
                let which = match session {
                    Some(session) => Which::Session(session),
                    None if all => Which::All,
                    None => Which::Only,
                };
                (globals, Command::Stop(StopSettings { which, local }))
            }
            Sub::Image(ImageArgs { globals, action }) => {
                let (inner, settings) = match action {
                    ImageSub::Save { globals, output_file } => (globals, ImageSettings::Save { file: output_file }),
                    ImageSub::Load(globals) => (globals, ImageSettings::Load),
                    ImageSub::Push { globals, reference } => (globals, ImageSettings::Push { reference }),
                };
                (globals.and(&inner), Command::Image(settings))
            }
        };
        let globals = outer.and(&globals);
        Ok(Settings { verbosity: globals.verbose, output: globals.output.map(Into::into).unwrap_or_default(), command })
    }
}

impl From<RbacArgs> for RbacSettings {
    fn from(RbacArgs { cluster, swap, like, outgoing, users, groups, service_accounts, .. }: RbacArgs) -> Self {
        let target = match (swap, like) {
            (Some(target), _) => target,
            (None, Some(like)) => RbacTarget::Like(like),
            (None, None) if outgoing => RbacTarget::Outgoing,
            (None, None) => RbacTarget::Any,
        };
        let users = users.into_iter().map(Subject::User);
        let groups = groups.into_iter().map(Subject::Group);
        let accounts = service_accounts.into_iter().map(Subject::ServiceAccount);
        Self { cluster: cluster.into(), target, subjects: users.chain(groups).chain(accounts).collect() }
    }
}

impl From<ClusterArgs> for ClusterSettings {
    fn from(ClusterArgs { namespace, context }: ClusterArgs) -> Self {
        Self { context, namespace }
    }
}

impl ComposeArgs {
    fn settings(self, around: &Surroundings) -> ComposeSettings {
        let (action, args) = match self.action {
            ComposeSub::Up(rest) => (ComposeAction::Up, rest.args),
            ComposeSub::Down(rest) => (ComposeAction::Down, rest.args),
        };
        ComposeSettings {
            cluster: self.cluster.into(),
            proxy_image: self.proxy_image.or_else(|| around.proxy_image()),
            take_over: self.take_over,
            files: self.files,
            project_name: self.project_name,
            profiles: self.profiles,
            env_files: self.env_files,
            action,
            args,
        }
    }
}

/// clap's refusal in the shape of all other errors: its first line is the message, its tip the hint.
pub(super) fn usage_error(error: &clap::Error) -> UsageError {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let message = first.strip_prefix("error: ").unwrap_or(first).to_owned();
    let rest: Vec<&str> = lines.collect();
    let tip = rest
        .iter()
        .find_map(|line| line.strip_prefix("tip: ").map(str::to_owned))
        .or_else(|| rest.iter().find_map(|line| line.strip_prefix('[')?.strip_suffix(']').map(str::to_owned)))
        .unwrap_or_else(|| "`tpdocker --help` lists the commands".to_owned());
    // clap names what is missing on the lines below its message.
    let missing: Vec<&str> = rest.iter().copied().filter(|line| line.starts_with('<')).collect();
    let message = if missing.is_empty() { message } else { format!("{message} {}", missing.join(" ")) };
    UsageError::Clap { message, tip }
}
