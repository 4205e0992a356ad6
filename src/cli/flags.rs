//! The flags of `tpdocker run`: one row each, from which the parser, the help and `docs/cli.md` are made.
//!
//! A flag of docker's keeps docker's meaning. What belongs to the owner of a network namespace moves to the sidecar,
//! because a container that joins another one's namespace may not carry it. Docker's flags without a row are listed in
//! [`NOT_YET`], so that they are answered differently from a typing error.

use super::draft::Draft;
use super::error::{UsageError, ValueError};
use super::grammar::Table;
use super::nearest::nearest;
use super::{Surroundings, value};

/// Carries out one flag.
pub(super) type Apply = fn(&mut Draft, &str, &Surroundings) -> Result<(), ValueError>;

/// One flag.
#[derive(Clone, Copy)]
pub struct Flag {
    /// Its name, without the dashes.
    pub long: &'static str,
    /// Another long name, which docker has too.
    pub alias: Option<&'static str>,
    /// Its letter.
    pub short: Option<char>,
    /// Whether it takes a value.
    pub arity: Arity,
    /// Whether each further occurrence adds to the former ones. Otherwise docker's last one wins, and ours is refused.
    pub repeatable: bool,
    /// Whose it is.
    pub origin: Origin,
    /// Where it acts.
    pub acts: Acts,
    /// What it does, without a full stop.
    pub help: &'static str,
    pub(super) apply: Apply,
}

impl std::fmt::Debug for Flag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "--{}", self.long)
    }
}

impl Flag {
    /// As the help shows it: `-e, --env NAME[=VALUE]`.
    pub fn usage(&self) -> String {
        let mut usage = self.short.map(|short| format!("-{short}, ")).unwrap_or_default();
        usage.push_str("--");
        usage.push_str(self.long);
        if let Some(alias) = self.alias {
            usage.push_str(", --");
            usage.push_str(alias);
        }
        if let Arity::Value(name) = self.arity {
            usage.push(' ');
            usage.push_str(name);
        }
        usage
    }
}

/// Whether a flag takes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arity {
    /// None, or `=true` and `=false`.
    Switch,
    /// One, shown by this name.
    Value(&'static str),
}

/// Whose flag it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `docker run` has it.
    Docker,
    /// tpdocker's own.
    Tpdocker,
}

/// Where a flag acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acts {
    /// On the user's container.
    App,
    /// On the sidecar, which owns the network namespace of both.
    Sidecar,
    /// On the session: cluster, images, output.
    Session,
}

impl std::fmt::Display for Acts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::App => "app",
            Self::Sidecar => "sidecar",
            Self::Session => "session",
        })
    }
}

const fn docker(long: &'static str, arity: Arity, acts: Acts, apply: Apply, help: &'static str) -> Flag {
    Flag { long, alias: None, short: None, arity, repeatable: false, origin: Origin::Docker, acts, help, apply }
}

const fn ours(long: &'static str, arity: Arity, apply: Apply, help: &'static str) -> Flag {
    Flag { origin: Origin::Tpdocker, ..docker(long, arity, Acts::Session, apply, help) }
}

const fn on_sidecar(flag: Flag) -> Flag {
    Flag { acts: Acts::Sidecar, ..flag }
}

const fn short(letter: char, flag: Flag) -> Flag {
    Flag { short: Some(letter), ..flag }
}

const fn alias(name: &'static str, flag: Flag) -> Flag {
    Flag { alias: Some(name), ..flag }
}

const fn repeatable(flag: Flag) -> Flag {
    Flag { repeatable: true, ..flag }
}

use Acts::{App, Sidecar};
use Arity::{Switch, Value};

/// Every flag, in the order of the help: ours, then docker's by the alphabet.
pub static FLAGS: &[Flag] = &[
    ours("swap", Value("[KIND/]NAME[:CONTAINER]"), value::swap, "Service or workload that the container stands in for"),
    ours(
        "like",
        Value("[KIND/]NAME[:CONTAINER]"),
        value::like,
        "Take its environment and files, and none of its traffic",
    ),
    short('n', ours("namespace", Value("NAME"), value::namespace, "Namespace; the context's when absent")),
    ours("context", Value("NAME"), value::context, "Context of the kubeconfig; its current one when absent"),
    ours("proxy-image", Value("REF"), value::proxy_image, "Proxy image, when not the one that belongs to this binary"),
    ours("hold", Value("DURATION"), value::hold, "How long callers wait while the app restarts; 0 refuses (10s)"),
    ours(
        "grace",
        Value("DURATION"),
        value::grace,
        "How long after this process is gone the proxy restores by itself; 0 never (1m)",
    ),
    repeatable(on_sidecar(ours(
        "bypass",
        Value("CIDR"),
        value::bypass,
        "Reach this network from the laptop and not through the tunnel",
    ))),
    repeatable(on_sidecar(ours(
        "container-to-host",
        Value("PORT[:HOST_PORT]"),
        value::container_to_host,
        "Lead a port of the container's localhost to the laptop's",
    ))),
    repeatable(ours(
        "pod-volume",
        Value("NAME=skip|empty|copy|DIR"),
        value::pod_volume,
        "What the app gets for a volume or claim of the pod",
    )),
    ours(
        "skip-init-containers",
        Switch,
        value::skip_init_containers,
        "Leave the pod's init containers out, but those that run beside it",
    ),
    ours("take-over", Switch, value::take_over, "Take the workload over from the session that holds it"),
    ours("dry-run", Switch, value::dry_run, "Print the plan and change nothing"),
    ours("output", Value("text|json"), value::output, "How steps and errors are told on stderr"),
    repeatable(ours("verbose", Switch, value::verbose, "Log to stderr; again for more (after `run`, -v is a volume)")),
    ours("help", Switch, value::help, "Print this help"),
    repeatable(docker("add-host", Value("NAME:IP"), Sidecar, value::add_host, "Add a name to /etc/hosts")),
    repeatable(docker("dns", Value("IP"), Sidecar, value::dns, "Use this nameserver and not the pod's")),
    docker("entrypoint", Value("COMMAND"), App, value::entrypoint, "Run this and not the image's entrypoint"),
    repeatable(short('e', docker("env", Value("NAME[=VALUE]"), App, value::env, "Set a variable, over the pod's"))),
    repeatable(docker("env-file", Value("FILE"), App, value::env_file, "Set the variables of a file")),
    short('h', docker("hostname", Value("NAME"), Sidecar, value::hostname, "Host name; the pod's when absent")),
    docker("init", Switch, App, value::init, "Run an init as PID 1 that forwards signals and reaps processes"),
    short('i', docker("interactive", Switch, App, value::interactive, "Keep stdin open")),
    repeatable(short('l', docker("label", Value("NAME[=VALUE]"), App, value::label, "Set a label on the container"))),
    repeatable(docker("mount", Value("KEY=VALUE,..."), App, value::mount, "Mount a bind, volume or tmpfs")),
    docker("name", Value("NAME"), App, value::name, "Name of the container"),
    repeatable(alias("net", docker("network", Value("NAME"), Sidecar, value::network, "Join this docker network"))),
    docker("platform", Value("OS/ARCH"), App, value::platform, "Platform of the image"),
    repeatable(short('p', docker("publish", Value(PUBLISH), Sidecar, value::publish, "Publish a port on the laptop"))),
    docker("pull", Value("always|missing|never"), App, value::pull, "When to pull the image (missing)"),
    docker("rm", Switch, App, value::rm, "Remove the container when it ends"),
    short('t', docker("tty", Switch, App, value::tty, "Allocate a terminal")),
    short('u', docker("user", Value("NAME|UID[:GROUP|GID]"), App, value::user, "User of the app")),
    repeatable(short('v', docker("volume", Value(VOLUME), App, value::volume, "Mount a directory, file or volume"))),
    short('w', docker("workdir", Value("DIR"), App, value::workdir, "Working directory of the app")),
];

const PUBLISH: &str = "[IP:][HOST:]PORT[/PROTO]";
const VOLUME: &str = "[HOST:]CONTAINER[:MODE]";

/// Flags of `docker run` (29.0) that tpdocker does not carry out yet: letter, name, and what there is instead.
pub static NOT_YET: &[(Option<char>, &str, Option<&str>)] = &[
    (None, "annotation", None),
    (Some('a'), "attach", Some("stdout and stderr are always attached; -i attaches stdin")),
    (None, "blkio-weight", None),
    (None, "blkio-weight-device", None),
    (None, "cap-add", None),
    (None, "cap-drop", None),
    (None, "cgroup-parent", None),
    (None, "cgroupns", None),
    (None, "cidfile", None),
    (None, "cpu-count", None),
    (None, "cpu-percent", None),
    (None, "cpu-period", None),
    (None, "cpu-quota", None),
    (None, "cpu-rt-period", None),
    (None, "cpu-rt-runtime", None),
    (Some('c'), "cpu-shares", None),
    (None, "cpus", None),
    (None, "cpuset-cpus", None),
    (None, "cpuset-mems", None),
    (Some('d'), "detach", Some("a session lives in the foreground; end the line with & or use another terminal")),
    (None, "detach-keys", None),
    (None, "device", None),
    (None, "device-cgroup-rule", None),
    (None, "device-read-bps", None),
    (None, "device-read-iops", None),
    (None, "device-write-bps", None),
    (None, "device-write-iops", None),
    (None, "disable-content-trust", None),
    (None, "dns-opt", Some(PODS_DNS)),
    (None, "dns-option", Some(PODS_DNS)),
    (None, "dns-search", Some(PODS_DNS)),
    (None, "domainname", None),
    (None, "expose", Some("not needed: the ports on which the app listens are opened in the cluster by themselves")),
    (None, "gpus", None),
    (None, "group-add", None),
    (None, "health-cmd", None),
    (None, "health-interval", None),
    (None, "health-retries", None),
    (None, "health-start-interval", None),
    (None, "health-start-period", None),
    (None, "health-timeout", None),
    (None, "io-maxbandwidth", None),
    (None, "io-maxiops", None),
    (None, "ip", None),
    (None, "ip6", None),
    (None, "ipc", None),
    (None, "isolation", None),
    (None, "kernel-memory", None),
    (None, "label-file", None),
    (None, "link", None),
    (None, "link-local-ip", None),
    (None, "log-driver", None),
    (None, "log-opt", None),
    (None, "mac-address", None),
    (Some('m'), "memory", None),
    (None, "memory-reservation", None),
    (None, "memory-swap", None),
    (None, "memory-swappiness", None),
    (None, "net-alias", None),
    (None, "network-alias", None),
    (None, "no-healthcheck", None),
    (None, "oom-kill-disable", None),
    (None, "oom-score-adj", None),
    (None, "pid", None),
    (None, "pids-limit", None),
    (None, "privileged", None),
    (Some('P'), "publish-all", Some("publish each port with -p")),
    (Some('q'), "quiet", None),
    (None, "read-only", None),
    (None, "restart", None),
    (None, "runtime", None),
    (None, "security-opt", None),
    (None, "shm-size", None),
    (None, "sig-proxy", Some("signals are always forwarded to the app")),
    (None, "stop-signal", None),
    (None, "stop-timeout", None),
    (None, "storage-opt", None),
    (None, "sysctl", None),
    (None, "tmpfs", Some("--mount type=tmpfs,target=DIR")),
    (None, "ulimit", None),
    (None, "use-api-socket", None),
    (None, "userns", None),
    (None, "uts", None),
    (None, "volume-driver", None),
    (None, "volumes-from", None),
];

const PODS_DNS: &str = "the app has the pod's own resolv.conf, its search list and options included";

/// What people type who come from other tools, and what it is here.
static FROM_ELSEWHERE: &[(&str, &str)] = &[
    ("swap-deployment", "--swap"),
    ("swap-deployment-service", "--swap"),
    ("deployment", "--swap"),
    ("service", "--swap"),
    ("docker-run", "nothing: the arguments of `tpdocker run` are those of `docker run`"),
    ("kube-context", "--context"),
    ("also-proxy", "nothing: all traffic is the cluster's, and --bypass names what is not"),
    ("never-proxy", "--bypass"),
];

/// The rows above, as the grammar asks for them.
pub(super) struct Rows;

impl Table for Rows {
    fn long(&self, name: &str) -> Result<&'static Flag, UsageError> {
        if let Some(flag) = FLAGS.iter().find(|flag| flag.long == name || flag.alias == Some(name)) {
            return Ok(flag);
        }
        let typed = format!("--{name}");
        if let Some((_, _, instead)) = NOT_YET.iter().find(|(_, long, _)| *long == name) {
            return Err(UsageError::NotYet { typed, instead: *instead });
        }
        let elsewhere = FROM_ELSEWHERE.iter().find(|(long, _)| *long == name).map(|(_, ours)| (*ours).to_owned());
        let instead = elsewhere.or_else(|| {
            let names = FLAGS.iter().map(|flag| flag.long).chain(NOT_YET.iter().map(|(_, long, _)| *long));
            nearest(name, names).map(|near| format!("--{near}"))
        });
        Err(UsageError::UnknownFlag { typed, instead })
    }

    fn short(&self, letter: char) -> Result<&'static Flag, UsageError> {
        if let Some(flag) = FLAGS.iter().find(|flag| flag.short == Some(letter)) {
            return Ok(flag);
        }
        let typed = format!("-{letter}");
        match NOT_YET.iter().find(|(short, _, _)| *short == Some(letter)) {
            Some((_, long, instead)) => {
                Err(UsageError::NotYet { typed: format!("{typed}/--{long}"), instead: *instead })
            }
            None => Err(UsageError::UnknownFlag { typed, instead: None }),
        }
    }
}
