//! Commands, and what is common to them.

use std::ffi::OsString;
use std::path::PathBuf;

use super::{failure, run, settings, surroundings, wrong};
use crate::cli::{Request, Surroundings, parse};
use crate::settings::{
    Command, ComposeAction, ImageSettings, OutputFormat, RbacTarget, StopSettings, Subject, TargetKind, Which,
};

#[test]
fn v_is_a_volume_after_run_and_verbosity_in_front_of_it() {
    let it = settings(&["tpdocker", "-vv", "--output", "json", "run", "--verbose", "--swap", "s", "-v", "/a:/b", "i"]);
    assert_eq!((it.verbosity, it.output), (3, OutputFormat::Json));
    let Command::Run(run) = it.command else { panic!("not a run") };
    assert_eq!(run.app.binds, ["/a:/b"]);
    assert_eq!(settings(&["tpdocker", "run", "--output=json", "--swap", "s", "i"]).output, OutputFormat::Json);
}

#[test]
fn a_failure_is_told_in_the_format_asked_for_by_then() {
    for args in [
        &["tpdocker", "--output", "json", "run", "--bogus"][..],
        &["tpdocker", "run", "--output=json", "--bogus"],
        &["tpdocker", "--output=json", "bogus"],
    ] {
        assert_eq!(failure(args).output, OutputFormat::Json, "{args:?}");
    }
    assert_eq!(failure(&["tpdocker", "run", "--bogus", "img", "--output=json"]).output, OutputFormat::Text);
}

#[test]
fn the_sessions_flags_are_ours() {
    let it = run(&["-n", "staging", "--context=kind", "--proxy-image", "reg/p:1", "--dry-run", "img"]);
    assert_eq!(it.cluster.namespace.as_deref(), Some("staging"));
    assert_eq!(it.cluster.context.as_deref(), Some("kind"));
    assert_eq!((it.proxy_image.as_deref(), it.dry_run), (Some("reg/p:1"), true));
    assert!(wrong(&["-n", "Not/A/Namespace", "img"]).contains("namespace"));
}

#[test]
fn the_proxy_image_of_the_environment_is_that_of_run_and_compose_unless_a_flag_names_another() {
    let image = |value: &str, args: &[&str]| {
        let env = |name: &str| (name == "TPDOCKER_PROXY_IMAGE").then(|| value.to_owned());
        let around = Surroundings { env: &env, ..surroundings() };
        match parse(args.iter().map(OsString::from), &around) {
            Ok(Request::Act(settings)) => match settings.command {
                Command::Run(run) => run.proxy_image,
                Command::Compose(compose) => compose.proxy_image,
                other => panic!("{other:?}"),
            },
            other => panic!("{args:?}: {other:?}"),
        }
    };
    for (plain, flagged) in [
        (
            &["tpdocker", "run", "--swap", "s", "img"][..],
            &["tpdocker", "run", "--proxy-image", "p:2", "--swap", "s", "img"][..],
        ),
        (&["tpdocker", "compose", "up"], &["tpdocker", "compose", "--proxy-image", "p:2", "up"]),
    ] {
        assert_eq!(image("p:1", plain).as_deref(), Some("p:1"));
        assert_eq!(image("p:1", flagged).as_deref(), Some("p:2"));
        assert_eq!(image("", plain), None);
    }
}

#[test]
fn compose_passes_on_what_follows_its_action() {
    let it =
        settings(&["tpdocker", "compose", "-n", "staging", "-f", "a.yaml", "-p", "x", "down", "-v", "--rmi", "all"]);
    let Command::Compose(compose) = it.command else { panic!("not compose") };
    assert_eq!((it.verbosity, compose.action), (0, ComposeAction::Down));
    assert_eq!(compose.args, ["-v", "--rmi", "all"]);
    assert_eq!(compose.files, [PathBuf::from("a.yaml")]);
    assert_eq!(compose.cluster.namespace.as_deref(), Some("staging"));
    let it = settings(&["tpdocker", "-v", "compose", "up", "web", "-d"]);
    let Command::Compose(compose) = it.command else { panic!("not compose") };
    assert_eq!((it.verbosity, compose.action, compose.args), (1, ComposeAction::Up, vec!["web".into(), "-d".into()]));
}

#[test]
fn the_other_commands_are_read() {
    let image = |args: &[&str]| match settings(args).command {
        Command::Image(image) => image,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        image(&["tpdocker", "image", "save", "-o", "p.tar"]),
        ImageSettings::Save { file: Some("p.tar".into()) }
    );
    assert_eq!(image(&["tpdocker", "image", "save"]), ImageSettings::Save { file: None });
    assert_eq!(image(&["tpdocker", "image", "load"]), ImageSettings::Load);
    assert_eq!(image(&["tpdocker", "image", "push", "r/p:1"]), ImageSettings::Push { reference: "r/p:1".into() });
    assert_eq!(settings(&["tpdocker", "version", "-v"]).verbosity, 1);
    assert_eq!(settings(&["tpdocker", "version"]).command, Command::Version);
}

#[test]
fn a_role_is_for_everything_a_kind_or_a_workload_and_for_whom_it_is_may_be_said() {
    let rbac = |args: &[&str]| match settings(&[&["tpdocker", "rbac", "-n", "staging"], args].concat()).command {
        Command::Rbac(rbac) => rbac,
        other => panic!("{other:?}"),
    };
    assert_eq!(rbac(&[]).target, RbacTarget::Any);
    assert_eq!(rbac(&["--swap", "sts"]).target, RbacTarget::Kind(TargetKind::StatefulSet));
    assert_eq!(rbac(&["--outgoing"]).target, RbacTarget::Outgoing);
    let RbacTarget::Like(like) = rbac(&["--like", "pod/web-0"]).target else { panic!("like") };
    assert_eq!(like.name, "web-0");
    for (typed, kind) in [("web", None), ("deployment/deployment", Some(TargetKind::Deployment))] {
        let RbacTarget::Swap(target) = rbac(&["--swap", typed]).target else { panic!("{typed}") };
        assert_eq!(target.kind, kind);
    }
    let it = rbac(&["--group", "dev", "--user", "ann", "--service-account", "ci", "--user", "bob"]);
    let users = ["ann", "bob"].map(|name| Subject::User(name.into()));
    let others = [Subject::Group("dev".into()), Subject::ServiceAccount("ci".into())];
    assert_eq!(it.subjects, [users, others].concat());
}

#[test]
fn the_doctor_is_told_what_is_to_be_swapped() {
    let Command::Doctor(it) = settings(&["tpdocker", "doctor", "--swap", "svc/web", "--proxy-image", "p:2"]).command
    else {
        panic!("not the doctor")
    };
    assert_eq!(it.swap.unwrap().kind, Some(TargetKind::Service));
    assert_eq!(it.proxy_image.as_deref(), Some("p:2"));
}

#[test]
fn an_argument_that_is_not_utf8_is_refused_by_its_place() {
    use std::os::unix::ffi::OsStringExt as _;
    let argv = ["tpdocker", "run"].map(OsString::from).into_iter().chain([OsString::from_vec(vec![0xff, b'x'])]);
    let failure = parse(argv, &surroundings()).expect_err("not UTF-8");
    assert!(failure.error.to_string().starts_with("argument 2 is not valid UTF-8"));
}

#[test]
fn restore_takes_a_name_or_all_and_not_both_or_neither() {
    let restore = |args: &[&str]| {
        let Command::Restore(it) = settings(&[&["tpdocker", "restore"], args].concat()).command else {
            panic!("{args:?}")
        };
        (it.cluster.namespace, it.target.map(|target| target.name))
    };
    assert_eq!(restore(&["-n", "staging", "deploy/web"]), (Some("staging".into()), Some("web".into())));
    assert_eq!(restore(&["--all"]), (None, None));
    failure(&["tpdocker", "restore"]);
    failure(&["tpdocker", "restore", "--all", "web"]);
}

#[test]
fn stop_takes_the_only_session_unless_it_is_told_which() {
    let stop = |args: &[&str]| match settings(&[&["tpdocker", "stop"], args].concat()).command {
        Command::Stop(which) => which,
        other => panic!("{other:?}"),
    };
    let settings = |which, local| StopSettings { which, local };
    assert_eq!(stop(&[]), settings(Which::Only, false));
    assert_eq!(stop(&["a1"]), settings(Which::Session("a1".into()), false));
    assert_eq!(stop(&["--all"]), settings(Which::All, false));
    assert_eq!(stop(&["--all", "--local"]), settings(Which::All, true));
    failure(&["tpdocker", "stop", "--all", "a1"]);
}

#[test]
fn status_looks_in_one_namespace_or_in_all() {
    let status = |args: &[&str]| match settings(&[&["tpdocker", "status"], args].concat()).command {
        Command::Status(it) => (it.cluster.namespace, it.cluster.context, it.all_namespaces),
        other => panic!("{other:?}"),
    };
    assert_eq!(status(&["-n", "staging", "--context", "dev"]), (Some("staging".into()), Some("dev".into()), false));
    assert_eq!(status(&["-A"]), (None, None, true));
    failure(&["tpdocker", "status", "-A", "-n", "staging"]);
}
