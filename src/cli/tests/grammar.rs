//! Docker's grammar: what is a flag, what is its value, and what is the app's.

use std::ffi::OsString;

use proptest::prelude::*;

use super::{env, failure, run, surroundings, wrong};
use crate::cli::flags::{FLAGS, NOT_YET};
use crate::cli::{Request, parse};

#[test]
fn what_people_typed_for_the_ancestor_is_understood() {
    let it = run(&["--rm", "-it", "-v", "/home/me/src:/usr/src/app", "hello-dev"]);
    assert!(it.app.rm && it.app.interactive && it.app.tty);
    assert_eq!(it.app.binds, ["/home/me/src:/usr/src/app"]);
    assert_eq!(it.app.image, "hello-dev");

    let it = run(&[
        "--rm",
        "-e",
        "MAVEN_OPTS=-agentlib:jdwp=transport=dt_socket,server=y",
        "-v/src:/build",
        "-p",
        "8080:8080",
        "-p",
        "5005:5005",
        "maven-build:jdk8",
        "mvn",
        "-f",
        "/build",
        "-e",
        "-p",
        "spring-boot:run",
    ]);
    assert_eq!(it.app.env, env(&[("MAVEN_OPTS", "-agentlib:jdwp=transport=dt_socket,server=y")]));
    assert_eq!(it.app.binds, ["/src:/build"]);
    assert_eq!(it.net.publish.iter().map(|port| port.container_port).collect::<Vec<_>>(), [8080, 5005]);
    assert_eq!(it.app.command, ["mvn", "-f", "/build", "-e", "-p", "spring-boot:run"]);
}

#[test]
fn what_follows_the_image_belongs_to_the_app() {
    let it = run(&["-i", "img", "-p", "80:80", "-h", "--help", "--swap", "other", "--", "-it"]);
    assert_eq!(it.app.command, ["-p", "80:80", "-h", "--help", "--swap", "other", "--", "-it"]);
    assert!(it.net.publish.is_empty() && it.net.hostname.is_none());
}

#[test]
fn two_dashes_end_the_flags_and_are_not_passed_on() {
    let it = run(&["--rm", "--", "img", "--", "x"]);
    assert_eq!((it.app.image.as_str(), it.app.command), ("img", vec!["--".to_owned(), "x".to_owned()]));
}

#[test]
fn every_spelling_of_a_value_is_dockers() {
    for args in [&["-e", "A=B"][..], &["-e=A=B"], &["-eA=B"], &["--env", "A=B"], &["--env=A=B"], &["-ite", "A=B"]] {
        assert_eq!(run(&[args, &["img"]].concat()).app.env, env(&[("A", "B")]), "{args:?}");
    }
    assert_eq!(run(&["-w=/x", "-e=A=", "img"]).app.env, env(&[("A", "")]));
}

#[test]
fn a_value_may_look_like_a_flag() {
    let it = run(&["--entrypoint", "--rm", "img"]);
    assert_eq!(it.app.entrypoint.as_deref(), Some("--rm"));
    assert!(!it.app.rm);
}

#[test]
fn switches_take_true_and_false_behind_an_equals_sign_only() {
    let it = run(&["--rm=true", "--init=0", "-it=false", "img", "false"]);
    assert!(it.app.rm && it.app.interactive && !it.app.init && !it.app.tty);
    assert_eq!(it.app.command, ["false"]);
    assert!(wrong(&["--rm=maybe", "img"]).contains("true or false"));
}

#[test]
fn h_is_the_hostname_and_help_is_help_in_front_of_the_image() {
    assert_eq!(run(&["-h", "box", "img"]).net.hostname.as_deref(), Some("box"));
    assert!(wrong(&["-h"]).contains("--help"));
    for args in [&["tpdocker", "run", "--help"][..], &["tpdocker", "run", "-p", "nonsense", "--help", "img"]] {
        assert!(matches!(parse(args.iter().map(OsString::from), &surroundings()), Ok(Request::Print(_))), "{args:?}");
    }
}

#[test]
fn unknown_flags_are_named_and_dockers_others_are_told_apart() {
    assert!(wrong(&["--volmue", "x", "img"]).starts_with("unknown flag --volmue | did you mean --volume?"));
    assert!(wrong(&["--swap-deployment", "x", "img"]).contains("did you mean --swap?"));
    assert!(wrong(&["--gpus", "all", "img"]).starts_with("docker's --gpus is not supported yet"));
    assert!(wrong(&["-d", "img"]).starts_with("docker's -d/--detach is not supported yet | a session lives"));
    assert!(wrong(&["-itd", "img"]).starts_with("docker's -d/--detach"));
    assert!(wrong(&["-z", "img"]).starts_with("unknown flag -z"));
    assert!(wrong(&["-é", "img"]).starts_with("unknown flag -é"));
    assert!(wrong(&["--=x", "img"]).starts_with("bad flag syntax"));
    assert!(wrong(&["---rm", "img"]).starts_with("bad flag syntax"));
}

#[test]
fn ours_are_given_once_and_dockers_last_one_wins() {
    assert!(wrong(&["--swap", "other", "img"]).starts_with("--swap was given more than once"));
    assert_eq!(run(&["--name", "a1", "--name", "b2", "img"]).app.name.as_deref(), Some("b2"));
}

#[test]
fn what_is_missing_is_said() {
    assert!(wrong(&["--rm"]).starts_with("`tpdocker run` needs an image"));
    assert!(wrong(&["--rm", ""]).starts_with("`tpdocker run` needs an image"));
    assert!(wrong(&["--name"]).starts_with("--name needs a value"));
    assert!(failure(&["tpdocker", "run"]).error.to_string().contains("needs an image"));
}

#[test]
fn no_two_flags_share_a_name() {
    let mut names: Vec<String> = FLAGS
        .iter()
        .flat_map(|flag| [Some(flag.long.to_owned()), flag.alias.map(str::to_owned), flag.short.map(String::from)])
        .flatten()
        .chain(
            NOT_YET
                .iter()
                .flat_map(|(short, long, _)| [Some((*long).to_owned()), short.map(String::from)].into_iter().flatten()),
        )
        .collect();
    names.sort();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
}

/// An argument as people and machines might produce it, flags over-represented.
fn argument() -> impl Strategy<Value = String> {
    let names: Vec<&'static str> = FLAGS.iter().map(|flag| flag.long).collect();
    prop_oneof![
        any::<String>(),
        "-{1,2}[a-zA-Z=:,/.]{0,6}",
        (proptest::sample::select(names), "(=[ -~]{0,12})?").prop_map(|(name, value)| format!("--{name}{value}")),
        "[a-z0-9:./\\-\\[\\],=\"]{0,16}",
    ]
}

proptest! {
    #[test]
    fn what_follows_the_image_comes_back_verbatim(args in proptest::collection::vec(argument(), 0..12)) {
        let mut line = vec!["--rm", "-e", "A=B", "img"];
        line.extend(args.iter().map(String::as_str));
        let it = run(&line);
        prop_assert_eq!(it.app.image, "img");
        prop_assert_eq!(it.app.command, args);
    }

    #[test]
    fn no_command_line_panics(args in proptest::collection::vec(argument(), 0..8), is_run: bool) {
        let front: &[&str] = if is_run { &["tpdocker", "run"] } else { &["tpdocker"] };
        let argv = front.iter().copied().map(OsString::from).chain(args.iter().map(OsString::from));
        if let Err(failure) = parse(argv, &surroundings()) {
            prop_assert!(!failure.error.to_string().is_empty());
        }
    }

    #[test]
    fn a_flags_value_is_the_same_behind_an_equals_sign_and_as_the_next_argument(value: String) {
        let apart = run(&["--entrypoint", &value, "img"]);
        let joined = run(&[&format!("--entrypoint={value}"), "img"]);
        prop_assert_eq!(apart, joined);
    }
}
