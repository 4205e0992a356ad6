//! What an engine refuses, and what a person is told.

use std::net::TcpListener;

use tpdocker::docker::{EngineError, SidecarSpec};
use tpdocker::error::{Code, Explain};
use tpdocker::settings::{AppSpec, MountKind, MountSpec, NetSpec, PullPolicy};

use crate::sidecar::{published, spec};
use crate::support::{BUSYBOX, Session, docker, reporter, shell};

async fn refused(session: &Session, net: NetSpec) -> EngineError {
    let run_dir = tempfile::tempdir().unwrap();
    let spec = SidecarSpec { net, ..spec(session, run_dir.path()) };
    let error = session.engine.start_sidecar(&spec).await.unwrap_err();
    assert_eq!(docker(&["ps", "-aq", "--filter", &format!("name={}", spec.name)]), "", "nothing is left behind");
    error
}

#[tokio::test]
async fn a_port_that_a_process_has_is_refused_and_the_process_named() {
    let Some(session) = Session::begin().await else { return };
    session.engine.ensure_sidecar_image(&reporter()).await.unwrap();
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let error = refused(&session, published(port)).await;
    assert_eq!(error.code(), Code::Container);
    let message = error.to_string();
    assert!(message.contains(&format!("port {port} on this machine is already in use: the process")), "{message}");
    assert!(message.contains(&format!("pid {}", std::process::id())), "{message}");
}

#[tokio::test]
async fn a_port_that_a_container_has_is_refused_and_the_container_named() {
    let Some(session) = Session::begin().await else { return };
    session.engine.ensure_sidecar_image(&reporter()).await.unwrap();
    let name = session.name("publisher");
    let label = format!("{}={}", tpdocker_protocol::contract::LABEL_SESSION, session.id);
    docker(&["run", "-d", "--name", &name, "--label", &label, "-p", "80", &BUSYBOX, "sleep", "600"]);
    let port = docker(&["port", &name, "80"]);
    let port = port.lines().next().unwrap().rsplit_once(':').unwrap().1.parse().unwrap();
    let message = refused(&session, published(port)).await.to_string();
    assert!(message.ends_with(&format!("the container {name} has it")), "{message}");
}

#[tokio::test]
async fn a_network_that_does_not_exist_or_is_no_namespace_of_its_own_is_refused() {
    let Some(session) = Session::begin().await else { return };
    session.engine.ensure_sidecar_image(&reporter()).await.unwrap();
    let networks =
        |names: &[&str]| NetSpec { networks: names.iter().map(ToString::to_string).collect(), ..Default::default() };
    for names in [&["tpdocker-nowhere"][..], &["bridge", "tpdocker-nowhere"]] {
        let error = refused(&session, networks(names)).await;
        assert_eq!(error.to_string(), "the Docker network tpdocker-nowhere does not exist");
        assert_eq!(error.hint().unwrap(), "docker network create tpdocker-nowhere");
    }
    assert_eq!(refused(&session, networks(&["host"])).await.code(), Code::Usage);
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused_and_its_container_described() {
    let Some(session) = Session::begin().await else { return };
    let spec = AppSpec { name: Some(session.name("twice")), ..shell("true") };
    session.create(&spec).await;
    let error = session.engine.create_app(&session.id, &session.namespace(), &spec, vec![], None).await.unwrap_err();
    let message = error.to_string();
    assert!(message.contains(&format!("stopped, of image {}", *BUSYBOX)), "{message}");
    assert!(message.contains(&session.id), "{message}");
    assert_eq!(error.hint().unwrap(), format!("docker rm -f {}, or another --name", session.name("twice")));
}

#[tokio::test]
async fn a_mount_from_nowhere_is_refused_with_the_engines_reason() {
    let Some(session) = Session::begin().await else { return };
    let source = Some("/tpdocker/no/such/path".to_owned());
    let mount = MountSpec { kind: MountKind::Bind, source, target: "/x".to_owned(), read_only: false };
    let spec = AppSpec { mounts: vec![mount], ..shell("true") };
    let error = session.engine.create_app(&session.id, &session.namespace(), &spec, vec![], None).await.unwrap_err();
    assert!(matches!(error, EngineError::Mount { .. }), "{error:?}");
    assert!(error.to_string().contains("/tpdocker/no/such/path"), "{error}");
}

#[tokio::test]
async fn an_image_that_cannot_be_had_says_why() {
    let Some(session) = Session::begin().await else { return };
    let ensure =
        async |image: &str, policy| session.engine.ensure_image(image, policy, None, &reporter()).await.unwrap_err();
    let absent = ensure("tpdocker-test/absent", PullPolicy::Never).await;
    assert!(matches!(absent, EngineError::ImageAbsent { .. }), "{absent:?}");
    // Nobody listens on port 1.
    let unreachable = ensure("127.0.0.1:1/absent", PullPolicy::Missing).await;
    assert!(matches!(unreachable, EngineError::RegistryUnreachable { .. }), "{unreachable:?}");
    let malformed = ensure("Not A Reference", PullPolicy::Missing).await;
    assert_eq!(malformed.code(), Code::Image, "{malformed:?}");
}
