//! Images in the engine.

use std::process::{Command, Stdio};

use tpdocker::image;
use tpdocker::settings::PullPolicy;

use crate::support::{BUSYBOX, Session, docker, reporter};

#[tokio::test]
async fn an_image_that_is_here_is_described_and_not_pulled() {
    let Some(session) = Session::begin().await else { return };
    for policy in [PullPolicy::Missing, PullPolicy::Never] {
        let facts = session.engine.ensure_image(&BUSYBOX, policy, Some("linux/amd64"), &reporter()).await.unwrap();
        assert!(facts.id.starts_with("sha256:"));
        assert_eq!(facts.env, ["PATH=/bin"]);
    }
}

#[tokio::test]
async fn the_sidecar_image_is_loaded_once_and_holds_one_binary() {
    let Some(session) = Session::begin().await else { return };
    session.engine.ensure_sidecar_image(&reporter()).await.unwrap();
    session.engine.ensure_sidecar_image(&reporter()).await.unwrap();
    let inspect = |format: &str| docker(&["image", "inspect", "-f", format, image::sidecar().reference()]);
    assert_eq!(inspect("{{json .Config.Entrypoint}}"), r#"["/tpdocker-sidecar","hold"]"#);
    assert_eq!(inspect("{{len .RootFS.Layers}}"), "1");
}

#[tokio::test]
async fn docker_load_takes_the_proxy_image_which_is_not_roots() {
    let Some(_session) = Session::begin().await else { return };
    let mut load = Command::new("docker").arg("load").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    image::proxy().write_tar(load.stdin.take().unwrap()).unwrap();
    assert!(load.wait().unwrap().success());
    let inspect = |format: &str| docker(&["image", "inspect", "-f", format, image::proxy().reference()]);
    assert_eq!(inspect("{{.Config.User}} {{.Os}}"), "65532:65532 linux");
    assert_eq!(inspect("{{json .Config.Entrypoint}}"), r#"["/tpdocker-proxy"]"#);
}
