//! The container that owns the network namespace.

use std::path::Path;

use tpdocker::docker::SidecarSpec;
use tpdocker::error::{Code, Error};
use tpdocker::image;
use tpdocker::session::sidecar::Sidecar;
use tpdocker::settings::{AppSpec, NetSpec, Publish};
use tpdocker_protocol::addr::Transport;
use tpdocker_protocol::contract::{LABEL_ROLE, LABEL_SESSION, SIDECAR_RUN_DIR, SIDECAR_SOCKET};
use tpdocker_protocol::control::SidecarConfig;

use crate::support::{Session, docker, reporter, shell};

pub fn spec(session: &Session, run_dir: &Path) -> SidecarSpec {
    SidecarSpec {
        session: session.id.clone(),
        name: session.name("sidecar"),
        hostname: Some("servicename-7d4b9".to_owned()),
        net: NetSpec::default(),
        aliases: vec!["app".to_owned()],
        run_dir: run_dir.to_owned(),
        volumes: vec![],
    }
}

pub fn published(host_port: u16) -> NetSpec {
    let publish = Publish { host_ip: None, host_port: Some(host_port), container_port: 80, transport: Transport::Tcp };
    NetSpec { publish: vec![publish], ..Default::default() }
}

#[tokio::test]
async fn a_sidecar_has_two_capabilities_no_new_privileges_and_its_directory() {
    let Some(session) = Session::begin().await else { return };
    session.engine.ensure_sidecar_image(&reporter()).await.unwrap();
    let run_dir = tempfile::tempdir().unwrap();
    let sidecar = session.engine.start_sidecar(&spec(&session, run_dir.path())).await.unwrap();
    let inspect = |format: &str| docker(&["inspect", "-f", format, &sidecar.id]);
    assert_eq!(inspect("{{.HostConfig.CapAdd}} {{.HostConfig.CapDrop}}"), "[NET_ADMIN NET_RAW] [ALL]");
    assert_eq!(inspect("{{.HostConfig.SecurityOpt}} {{.HostConfig.Privileged}}"), "[no-new-privileges] false");
    assert_eq!(inspect("{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.RestartPolicy.Name}}"), "false no");
    assert_eq!(
        inspect("{{range .Mounts}}{{.Source}} {{.Destination}}{{end}}"),
        format!("{} {SIDECAR_RUN_DIR}", run_dir.path().display())
    );
    assert_eq!(inspect(&format!("{{{{index .Config.Labels {LABEL_ROLE:?}}}}}")), "sidecar");
}

#[tokio::test]
async fn an_engine_that_gives_the_sidecar_too_few_rights_is_told_as_that() {
    let Some(session) = Session::begin().await else { return };
    session.engine.ensure_sidecar_image(&reporter()).await.unwrap();
    let run_dir = tempfile::tempdir().unwrap();
    let mount = format!("{}:{SIDECAR_RUN_DIR}:Z", run_dir.path().display());
    let label = format!("{LABEL_SESSION}={}", session.id);
    let image = image::sidecar().reference();
    docker(&["run", "-d", "--cap-drop", "ALL", "--cap-add", "NET_RAW", "-l", &label, "-v", &mount, image]);
    let mut sidecar = Sidecar::connect(&run_dir.path().join(SIDECAR_SOCKET)).await.unwrap();
    let error = Error::from(sidecar.configure(SidecarConfig::default()).await.unwrap_err());
    assert_eq!(error.code(), Code::Engine);
    let told = error.chain().join(": ");
    assert!(told.contains("capabilities NET_ADMIN and NET_RAW"), "{told}");
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn an_app_shares_the_sidecars_host_name_hosts_and_resolver() {
    let Some(session) = Session::begin().await else { return };
    session.engine.ensure_sidecar_image(&reporter()).await.unwrap();
    let run_dir = tempfile::tempdir().unwrap();
    let net = NetSpec {
        add_hosts: vec!["thing9:10.9.8.7".to_owned()],
        dns: vec!["192.0.2.53".parse().unwrap()],
        ..Default::default()
    };
    let sidecar = session.engine.start_sidecar(&SidecarSpec { net, ..spec(&session, run_dir.path()) }).await.unwrap();
    let spec = shell("hostname; grep thing9 /etc/hosts; grep ^nameserver /etc/resolv.conf");
    let said = session.run_in(&sidecar, &spec, &[]).await.unwrap().end().await;
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "servicename-7d4b9\n10.9.8.7\tthing9\nnameserver 192.0.2.53\n");
}

#[tokio::test]
async fn a_published_port_of_the_sidecar_is_the_apps() {
    let Some(session) = Session::begin().await else { return };
    session.engine.ensure_sidecar_image(&reporter()).await.unwrap();
    let run_dir = tempfile::tempdir().unwrap();
    let mut net = published(0);
    net.publish[0].host_port = None;
    let sidecar = session.engine.start_sidecar(&SidecarSpec { net, ..spec(&session, run_dir.path()) }).await.unwrap();
    let port = docker(&["port", &sidecar.name, "80/tcp"]);
    let port = port.lines().next().unwrap().rsplit_once(':').unwrap().1.to_owned();
    let spec = AppSpec { interactive: true, ..shell("echo up; nc -l -p 80 </dev/null") };
    let talk = session.run_in(&sidecar, &spec, &[]).await.unwrap();
    crate::support::until_says(&talk.app, "up").await;
    let connect = || std::net::TcpStream::connect(format!("127.0.0.1:{port}"));
    // The engine's own proxy accepts before the app listens, and then resets; the app takes what it listens for.
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while docker(&["inspect", "-f", "{{.State.Running}}", talk.app.id()]) == "true" {
        if let Ok(mut stream) = connect() {
            std::io::Write::write_all(&mut stream, b"hello from the host\n").ok();
        }
        assert!(std::time::Instant::now() < deadline, "the app got nothing");
    }
    let said = String::from_utf8(talk.end().await.stdout).unwrap();
    assert!(said.contains("hello from the host"), "{said}");
}

#[tokio::test]
async fn a_sidecar_joins_every_network_under_its_aliases() {
    let Some(session) = Session::begin().await else { return };
    session.engine.ensure_sidecar_image(&reporter()).await.unwrap();
    let networks = [session.name("one"), session.name("two")];
    let _guards = networks.each_ref().map(|name| Network::create(name));
    let run_dir = tempfile::tempdir().unwrap();
    let net = NetSpec { networks: networks.to_vec(), ..Default::default() };
    let sidecar = session.engine.start_sidecar(&SidecarSpec { net, ..spec(&session, run_dir.path()) }).await.unwrap();
    for network in &networks {
        let format = format!("{{{{(index .NetworkSettings.Networks {network:?}).Aliases}}}}");
        let aliases = docker(&["inspect", "-f", &format, &sidecar.id]);
        assert!(aliases.contains("app"), "{network}: {aliases}");
    }
    session.engine.remove_all_of(&session.id).await.unwrap();
}

#[tokio::test]
async fn removing_a_session_removes_all_of_it_and_may_be_repeated() {
    let Some(session) = Session::begin().await else { return };
    session.engine.ensure_sidecar_image(&reporter()).await.unwrap();
    let run_dir = tempfile::tempdir().unwrap();
    session.engine.start_sidecar(&spec(&session, run_dir.path())).await.unwrap();
    let app = session.create(&shell("sleep 60")).await;
    assert_eq!(session.engine.remove_sidecar_of(&session.id).await.unwrap(), 1);
    assert_eq!(docker(&["inspect", "-f", "{{.State.Status}}", app.id()]), "created");
    // The app; its namespace has no role of ours and goes as well.
    assert_eq!(session.engine.remove_all_of(&session.id).await.unwrap(), 2);
    assert_eq!(session.engine.remove_all_of(&session.id).await.unwrap(), 0);
}

/// A network that goes with its test, after the containers on it.
struct Network<'a>(&'a str);

impl<'a> Network<'a> {
    fn create(name: &'a str) -> Self {
        docker(&["network", "create", name]);
        Self(name)
    }
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        docker(&["network", "rm", self.0]);
    }
}
