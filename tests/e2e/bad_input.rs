//! Whatever is wrong is said with its cause, its cure and its code, and leaves nothing behind.

use std::time::{Duration, Instant};

use crate::account::Account;
use crate::support::{Ended, NAMESPACE, SERVICE_IMAGE, Tpdocker, assert_restored, docker, staging, world};

/// Runs a command that must fail with this code and these words, and leave nothing behind.
#[track_caller]
fn fails(arguments: &[&str], code: i32, words: &[&str]) -> Ended {
    let _staging = staging();
    let before = world();
    let ended = Tpdocker::run(arguments).code(code);
    says(&ended, words);
    assert_restored(&before);
    ended
}

#[track_caller]
fn says(ended: &Ended, words: &[&str]) {
    for word in words {
        assert!(ended.stderr.contains(word), "{word:?} is not in the message:\n{}", ended.stderr);
    }
}

#[test]
fn no_such_workload() {
    fails(&["run", "--swap", "servicenam", "-n", NAMESPACE, SERVICE_IMAGE], 82, &["servicenam", "servicename"]);
}

#[test]
fn no_such_container() {
    fails(&["run", "--swap", "servicename:nginx", "-n", NAMESPACE, SERVICE_IMAGE], 82, &["nginx", "servicename"]);
}

#[test]
fn no_such_context() {
    fails(&["run", "--swap", "servicename", "--context", "prod", SERVICE_IMAGE], 81, &["prod", "staging"]);
}

#[test]
fn no_such_namespace() {
    fails(&["run", "--swap", "servicename", "-n", "stagin", SERVICE_IMAGE], 82, &["stagin"]);
}

#[test]
fn no_such_image() {
    let image = "127.0.0.1:1/no/such-image:1";
    fails(&["run", "--swap", "servicename", "-n", NAMESPACE, "--pull", "never", image], 86, &[image]);
    fails(&["run", "--swap", "servicename", "-n", NAMESPACE, image], 86, &[image]);
}

#[test]
fn an_unknown_flag_and_one_that_is_not_supported_yet() {
    fails(&["run", "--swap", "servicename", "--pubish", "80:80", SERVICE_IMAGE], 2, &["--pubish", "--publish"]);
    fails(&["run", "--swap", "servicename", "--gpus", "all", SERVICE_IMAGE], 2, &["--gpus", "not supported yet"]);
}

#[test]
fn a_dead_engine() {
    let _staging = staging();
    let before = world();
    let arguments = ["run", "--swap", "servicename", "-n", NAMESPACE, SERVICE_IMAGE];
    let ended =
        Tpdocker::spawn(Tpdocker::command(&arguments).env("DOCKER_HOST", "unix:///nonexistent/docker.sock")).wait();
    says(&ended.code(85), &["/nonexistent/docker.sock"]);
    assert_restored(&before);
}

#[test]
fn a_dead_api_server() {
    let _staging = staging();
    let before = world();
    let config = crate::support::kubeconfig_of_a_dead_server();
    let arguments = ["run", "--swap", "servicename", "-n", NAMESPACE, SERVICE_IMAGE];
    let ended = Tpdocker::spawn(Tpdocker::command(&arguments).env("KUBECONFIG", &*config)).wait();
    says(&ended.code(81), &["127.0.0.1:1"]);
    assert_restored(&before);
}

#[test]
fn a_port_that_is_bound_already() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let publish = format!("127.0.0.1:{port}:8080");
    let arguments = ["run", "--swap", "servicename", "-n", NAMESPACE, "-p", &publish, SERVICE_IMAGE];
    fails(&arguments, 87, &[&port.to_string(), "already"]);
}

#[test]
fn a_name_that_is_taken() {
    let holder = "tpdocker-e2e-holder";
    docker(&["create", "--name", holder, SERVICE_IMAGE]);
    let held = std::panic::catch_unwind(|| {
        fails(&["run", "--swap", "servicename", "-n", NAMESPACE, "--name", holder, SERVICE_IMAGE], 87, &[holder])
    });
    docker(&["rm", holder]);
    held.unwrap();
}

#[test]
fn a_namespace_without_rights() {
    let _staging = staging();
    let onlooker = Account::onlooker();
    let before = world();
    let ended = onlooker.start(&["run", "--swap", "servicename", "-n", NAMESPACE, SERVICE_IMAGE]).wait();
    says(&ended.code(83), &["pods/portforward", "kind: Role"]);
    assert_restored(&before);
}

#[test]
fn a_proxy_image_that_cannot_be_pulled_is_said_within_ten_seconds_with_the_kubelets_reason() {
    let image = "127.0.0.1:1/no/such-proxy:1";
    let arguments = ["run", "--swap", "servicename", "-n", NAMESPACE, "--proxy-image", image, SERVICE_IMAGE];
    let _staging = staging();
    let before = world();
    let began = Instant::now();
    let session = Tpdocker::start(&arguments);
    session.says("cannot be pulled");
    let took = began.elapsed();
    says(&session.wait().code(84), &[image, "connection refused", "tpdocker image push"]);
    assert_restored(&before);
    assert!(took < Duration::from_secs(10), "it took {took:?}");
}
