//! The grammar of each flag's value.

use std::time::Duration;

use tpdocker_protocol::addr::Transport;

use super::{env, failure, run, settings, wrong};
use crate::cluster::FixtureKind;
use crate::settings::{
    Command, Grace, Hold, Intent, MountKind, MountSpec, Publish, PullPolicy, SwapTarget, TargetKind, VolumeChoice,
};

#[test]
fn a_variable_takes_the_clis_value_or_is_unset() {
    let it = run(&["-e", "FROM_HOST", "-e", "ABSENT=1", "-e", "ABSENT", "-e", "BACK", "-e", "BACK=2", "img"]);
    assert_eq!(it.app.env, env(&[("FROM_HOST", "host's"), ("BACK", "2")]));
    assert_eq!(it.app.env_unset.into_iter().collect::<Vec<_>>(), ["ABSENT"]);
    assert!(wrong(&["-e", "=x", "img"]).contains("a variable has a name"));
}

#[test]
fn an_env_file_is_read_as_docker_reads_it_and_e_wins_wherever_it_stands() {
    let it = run(&["-e", "OVER=flag", "--env-file", "app.env", "img"]);
    let expected = [
        ("FIRST", "1"),
        ("INDENTED", "yes "),
        ("QUOTED", "\"a b\""),
        ("EMPTY", ""),
        ("EQUALS", "a=b"),
        ("FROM_HOST", "host's"),
        ("OVER", "flag"),
        ("HASH", "a # b"),
    ];
    assert_eq!(it.app.env, env(&expected));
    assert!(it.app.env_unset.is_empty());
    assert!(wrong(&["--env-file", "bad.env", "img"]).contains("line 2: a variable's name has no white space"));
    assert!(wrong(&["--env-file", "no.env", "img"]).contains("cannot read /home/dev/dir/no.env"));
}

#[test]
fn published_ports_follow_dockers_grammar() {
    let port = |ip: Option<&str>, host_port, container_port, transport| Publish {
        host_ip: ip.map(|ip| ip.parse().expect("an address")),
        host_port,
        container_port,
        transport,
    };
    use Transport::{Tcp, Udp};
    for (typed, expected) in [
        ("80", port(None, None, 80, Tcp)),
        ("8080:80", port(None, Some(8080), 80, Tcp)),
        ("0:80", port(None, None, 80, Tcp)),
        (":80", port(None, None, 80, Tcp)),
        ("53:53/UDP", port(None, Some(53), 53, Udp)),
        ("127.0.0.1:8080:80", port(Some("127.0.0.1"), Some(8080), 80, Tcp)),
        ("127.0.0.1::80", port(Some("127.0.0.1"), None, 80, Tcp)),
        ("[::1]:8080:80/tcp", port(Some("::1"), Some(8080), 80, Tcp)),
        ("::1:8080:80", port(Some("::1"), Some(8080), 80, Tcp)),
        ("target=80,published=8080,protocol=udp", port(None, Some(8080), 80, Udp)),
    ] {
        assert_eq!(run(&["-p", typed, "img"]).net.publish, [expected], "{typed}");
    }
    let range = run(&["-p", "8000-8002:9000-9002", "img"]).net.publish;
    let pairs: Vec<_> = range.iter().map(|port| (port.host_port, port.container_port)).collect();
    assert_eq!(pairs, [(Some(8000), 9000), (Some(8001), 9001), (Some(8002), 9002)]);
    assert_eq!(run(&["-p", "9000-9001", "img"]).net.publish.len(), 2);
    assert_eq!(run(&["-p", "1-65535:1-65535", "img"]).net.publish.len(), 65535);
}

#[test]
fn ports_that_cannot_be_are_refused() {
    for typed in [
        "",
        "0",
        "65536",
        "+80",
        "80/icmp",
        "80/sctp",
        "a:80",
        "80:",
        "8080:80:90",
        "1.2.3:80:80",
        "[::1:80:80",
        "8000-8001:80",
        "8000-8002:80-81",
        "90-80",
        "target=80,mode=host",
        "1.2.3.4:80:80:80",
        "80/",
        "-",
    ] {
        assert!(wrong(&["-p", typed, "img"]).contains("--publish"), "{typed}");
    }
}

#[test]
fn volumes_are_paths_of_the_laptop_or_names() {
    for (typed, expected) in [
        ("./src:/app", "/home/dev/dir/src:/app"),
        (".:/app:ro", "/home/dev/dir:/app:ro"),
        ("../x/./y:/app:rw,z", "/home/dev/x/y:/app:rw,z"),
        ("/abs:/app:ro,cached", "/abs:/app:ro,cached"),
        ("data:/var/lib/data", "data:/var/lib/data"),
        ("/anonymous", "/anonymous"),
    ] {
        assert_eq!(run(&["-v", typed, "img"]).app.binds, [expected], "{typed}");
    }
    for typed in ["~/src:/app", "src/app:/app", ":/app", "/abs:app", "name", "", "/a:/b:ro:z"] {
        assert!(wrong(&["-v", typed, "img"]).contains("--volume"), "{typed}");
    }
}

#[test]
fn mounts_are_csv() {
    let mount = |kind, source: Option<&str>, target: &str, read_only| MountSpec {
        kind,
        source: source.map(str::to_owned),
        target: target.to_owned(),
        read_only,
    };
    for (typed, expected) in [
        ("type=bind,src=./a,dst=/b,ro", mount(MountKind::Bind, Some("/home/dev/dir/a"), "/b", true)),
        ("TYPE=bind,source=/a,target=/b,readonly=false", mount(MountKind::Bind, Some("/a"), "/b", false)),
        ("source=vol,destination=/b", mount(MountKind::Volume, Some("vol"), "/b", false)),
        ("type=tmpfs,target=/b", mount(MountKind::Tmpfs, None, "/b", false)),
        ("type=bind,\"src=/a,b\",dst=/c", mount(MountKind::Bind, Some("/a,b"), "/c", false)),
        ("type=bind,\"src=/a\"\"b\",dst=/c", mount(MountKind::Bind, Some("/a\"b"), "/c", false)),
    ] {
        assert_eq!(run(&["--mount", typed, "img"]).app.mounts, [expected], "{typed}");
    }
    for typed in [
        "",
        "type=bind,dst=/b",
        "type=bind,src=a,dst=/b",
        "type=tmpfs,src=/a,dst=/b",
        "type=npipe,dst=/b",
        "dst=b",
        "src=a",
        "type=bind,\"src=/a,dst=/b",
        "type=bind,s\"rc=/a,dst=/b",
        "dst=/b,volume-nocopy",
        "dst=/b,nonsense=1",
        "dst=/b,ro=maybe",
        "type",
        "\"dst=/b\"x",
    ] {
        assert!(wrong(&["--mount", typed, "img"]).contains("--mount"), "{typed}");
    }
}

#[test]
fn flags_of_the_network_move_to_the_sidecar() {
    let it = run(&[
        "--add-host",
        "a:1.2.3.4",
        "--add-host",
        "b=[::1]",
        "--add-host",
        "c:::2",
        "--add-host=d:host-gateway",
        "--dns",
        "8.8.8.8",
        "--net",
        "one",
        "--network=two",
        "--network",
        "name=three",
        "--hostname",
        "box",
        "img",
    ]);
    assert_eq!(it.net.add_hosts, ["a:1.2.3.4", "b:::1", "c:::2", "d:host-gateway"]);
    assert_eq!(it.net.dns, ["8.8.8.8".parse::<std::net::IpAddr>().expect("an address")]);
    assert_eq!(it.net.networks, ["one", "two", "three"]);
    for args in [
        ["--add-host", "a"],
        ["--add-host", ":1.2.3.4"],
        ["--add-host", "a:b"],
        ["--add-host", "a:b=1.2.3.4"],
        ["--dns", "dns.example"],
        ["--network", "host"],
        ["--network", "none"],
        ["--network", "container:x"],
        ["--network", "name=x,alias=y"],
        ["--network", ""],
        ["--hostname", ""],
    ] {
        assert!(wrong(&[&args[..], &["img"]].concat()).contains("invalid value"), "{args:?}");
    }
}

#[test]
fn the_rest_of_the_container_is_as_typed() {
    let it = run(&[
        "-l",
        "a=b=c",
        "--label",
        "bare",
        "--pull=never",
        "--platform",
        "linux/arm64",
        "-u",
        "1000:1000",
        "-w",
        "/x",
        "--name",
        "me.1",
        "--init",
        "--entrypoint",
        "",
        "img",
    ]);
    assert_eq!(it.app.labels, env(&[("a", "b=c"), ("bare", "")]));
    assert_eq!((it.app.pull, it.app.platform.as_deref()), (PullPolicy::Never, Some("linux/arm64")));
    assert_eq!((it.app.user.as_deref(), it.app.workdir.as_deref()), (Some("1000:1000"), Some("/x")));
    assert_eq!((it.app.name.as_deref(), it.app.init), (Some("me.1"), true));
    assert_eq!(it.app.entrypoint.as_deref(), Some(""));
    for args in [["-l", "=x"], ["-l", "tpdocker.dev/role=app"], ["--pull", "sometimes"], ["-w", "x"], ["--name", "-x"]]
    {
        assert!(wrong(&[&args[..], &["img"]].concat()).contains("invalid value"), "{args:?}");
    }
}

#[test]
fn a_swap_names_a_service_or_a_workload_and_a_container() {
    let target = |typed: &str| match settings(&["tpdocker", "run", "--swap", typed, "img"]).command {
        Command::Run(run) => match run.intent {
            Intent::Swap(target) => target,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    let expected = |kind, name: &str, container: Option<&str>| SwapTarget {
        kind,
        name: name.into(),
        container: container.map(Into::into),
    };
    assert_eq!(target("web"), expected(None, "web", None));
    assert_eq!(target("web.v2:app"), expected(None, "web.v2", Some("app")));
    for typed in ["svc/web", "service/web", "Services/web"] {
        assert_eq!(target(typed), expected(Some(TargetKind::Service), "web", None), "{typed}");
    }
    for typed in ["deploy/web:app", "deployments/web:app", "Deployment.apps/web:app", "deployments.v1.apps/web:app"] {
        assert_eq!(target(typed), expected(Some(TargetKind::Deployment), "web", Some("app")), "{typed}");
    }
    assert_eq!(target("sts/db"), expected(Some(TargetKind::StatefulSet), "db", None));
    assert_eq!(target("replicasets.apps/db"), expected(Some(TargetKind::ReplicaSet), "db", None));
    let fixture = |kind| Some(TargetKind::Fixture(kind));
    assert_eq!(target("ds/agent"), expected(fixture(FixtureKind::DaemonSet), "agent", None));
    assert_eq!(target("cronjobs.v1.batch/report"), expected(fixture(FixtureKind::CronJob), "report", None));
    assert_eq!(target("pod/web-0:app"), expected(fixture(FixtureKind::Pod), "web-0", Some("app")));
}

#[test]
fn a_run_swaps_is_like_something_or_is_on_its_own() {
    let intent = |args: &[&str]| match settings(&[&["tpdocker", "run"], args].concat()).command {
        Command::Run(run) => run.intent,
        other => panic!("{other:?}"),
    };
    let web = SwapTarget { kind: None, name: "web".into(), container: Some("app".into()) };
    assert_eq!(intent(&["--swap", "web:app", "img"]), Intent::Swap(web.clone()));
    assert_eq!(intent(&["--like", "web:app", "img"]), Intent::Like(web));
    assert_eq!(intent(&["img"]), Intent::Outgoing);
    assert!(wrong(&["--like", "web", "img"]).starts_with("--swap and --like exclude each other"));
}

#[test]
fn a_swap_of_something_else_says_what_can_be_swapped() {
    for (typed, said) in [
        ("ro/web", "a Rollout cannot be swapped yet"),
        ("gizmo/web", "\"gizmo\" is not a kind"),
        ("deployment.extensions/web", "is not a kind"),
        ("/web", "is not a kind"),
        ("svc/", "\"\" is not the name"),
        ("Web", "\"Web\" is not the name"),
        ("web:", "\"\" is not the name of a container"),
        ("a/b/c", "is not"),
        ("", "is not the name"),
    ] {
        let error = failure(&["tpdocker", "run", "--swap", typed, "img"]).error;
        let chain = crate::error::Error::from(error).chain().join(": ");
        assert!(chain.contains(said), "{typed}: {chain}");
    }
}

#[test]
fn a_time_to_hold_has_units_and_a_limit() {
    assert_eq!(run(&["img"]).hold, Hold::default());
    for (typed, millis) in [("0", 0), ("0s", 0), ("10s", 10_000), ("500ms", 500), ("1m30s", 90_000), ("1h", 3_600_000)]
    {
        assert_eq!(run(&["--hold", typed, "img"]).hold, Hold(Duration::from_millis(millis)), "{typed}");
    }
    for typed in ["", "10", "s", "10x", "-1s", "1.5s", "10s5", "99999999999999999999s"] {
        assert!(wrong(&["--hold", typed, "img"]).contains("numbers with units"), "{typed}");
    }
    assert!(wrong(&["--hold=2h", "img"]).contains("at most an hour"));
    assert_eq!(run(&["img"]).grace, Grace(Duration::from_mins(1)));
    assert_eq!(run(&["--grace", "8h", "img"]).grace, Grace(Duration::from_hours(8)));
    assert_eq!(run(&["--grace", "0", "img"]).grace, Grace(Duration::ZERO));
    assert!(wrong(&["--grace=25h", "img"]).contains("at most 24 hours"));
    assert!(wrong(&["--grace=soon", "img"]).contains("numbers with units"));
}

#[test]
fn networks_past_the_tunnel_are_ranges_or_addresses_of_both_families() {
    let net = run(&[
        "--bypass",
        "192.168.7.9/24",
        "--bypass=10.1.2.3",
        "--bypass",
        "fd00:7::/64",
        "--bypass",
        "10.1.2.3/32",
        "i",
    ])
    .net;
    let texts: Vec<String> = net.bypass.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["192.168.7.0/24", "10.1.2.3/32", "fd00:7::/64"]);
    for (value, said) in [
        ("office", "names are not resolved"),
        ("10.0.0.0/33", "it is a network such as"),
        ("", "it is a network such as"),
        ("0.0.0.0/0", "not everything"),
        ("::/0", "all else is the cluster's"),
        ("127.0.0.0/8", "--container-to-host"),
        ("::1", "--container-to-host"),
    ] {
        let wrong = wrong(&["--bypass", value, "i"]);
        assert!(wrong.contains(said), "{value}: {wrong}");
    }
}

#[test]
fn ports_that_lead_to_the_laptop_are_one_or_two_numbers_and_lead_to_one_place() {
    let net = run(&["--container-to-host", "9000", "--container-to-host=9001:80", "i"]).net;
    let pairs: Vec<(u16, u16)> = net.host_ports.iter().map(|port| (port.container_port, port.host_port)).collect();
    assert_eq!(pairs, [(9000, 9000), (9001, 80)]);
    for value in ["", "0", "65536", "+5", "9000:", ":9000", "1:2:3", "localhost:9000", "9000/tcp"] {
        assert!(wrong(&["--container-to-host", value, "i"]).contains("is not a port"), "{value}");
    }
    let twice = wrong(&["--container-to-host", "9000", "--container-to-host", "9000:9001", "i"]);
    assert!(twice.contains("port 9000 of the container leads somewhere already"), "{twice}");
}

#[test]
fn each_volume_of_the_pod_has_one_choice_and_a_directory_is_a_path() {
    let typed = ["a=skip", "b=empty", "c=copy", "d=./data", "e=/srv/e"].map(|choice| ["--pod-volume", choice]).concat();
    let chosen = run(&[&typed[..], &["img"]].concat()).pod_volumes;
    let laptop = |path: &str| VolumeChoice::Laptop(path.to_owned());
    let choices = [VolumeChoice::Skip, VolumeChoice::Empty, VolumeChoice::Copy];
    let choices = choices.into_iter().chain([laptop("/home/dev/dir/data"), laptop("/srv/e")]);
    assert_eq!(chosen, ["a", "b", "c", "d", "e"].map(str::to_owned).into_iter().zip(choices).collect());
    assert!(wrong(&["--pod-volume", "data=cpoy", "img"]).contains("neither skip, empty, copy nor a path"));
    assert!(wrong(&["--pod-volume", "data", "img"]).contains("it has no ="));
    assert!(wrong(&["--pod-volume", "=copy", "img"]).contains("name is missing"));
    assert!(wrong(&["--pod-volume", "a=copy", "--pod-volume", "a=skip", "img"]).contains("two choices for a"));
}
