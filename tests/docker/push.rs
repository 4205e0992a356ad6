//! `tpdocker image push` with a real registry that wants a login, by the real binary: the login comes from the
//! configuration of Docker's client.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use tpdocker::image;
use tpdocker_protocol::contract::LABEL_SESSION;

use crate::support::{PATIENCE, Session, docker, output};

/// `tester:open sesame` in base64, which `tests/support/registry/htpasswd` lets in.
const LOGIN: &str = "dGVzdGVyOm9wZW4gc2VzYW1l";
/// `tester:open barley`, which it does not.
const WRONG_LOGIN: &str = "dGVzdGVyOm9wZW4gYmFybGV5";

const MANIFEST_V2: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A registry on this machine, which engines speak to without TLS; it goes with its session.
struct Registry<'a> {
    session: &'a Session,
    address: String,
}

impl<'a> Registry<'a> {
    fn start(session: &'a Session) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/registry-image");
        let image = output(&mut Command::new(script));
        let label = format!("{LABEL_SESSION}={}", session.id);
        let container = docker(&["run", "-d", "--label", &label, "-p", "127.0.0.1::5000", &image]);
        let address = docker(&["port", &container, "5000/tcp"]);
        let registry = Self { session, address };
        let deadline = Instant::now() + PATIENCE;
        // The engine's own proxy accepts before the registry does.
        while !registry.get("/v2/", Some(LOGIN)).is_ok_and(|(status, _)| status == 200) {
            assert!(Instant::now() < deadline, "the registry answers: {}", docker(&["logs", &container]));
        }
        registry
    }

    /// Status and body.
    fn get(&self, path: &str, login: Option<&str>) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address)?;
        let login = login.map(|login| format!("Authorization: Basic {login}\r\n")).unwrap_or_default();
        let host = &self.address;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\nAccept: {MANIFEST_V2}\r\n{login}\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        status.zip(body).ok_or_else(|| std::io::Error::other(answer))
    }

    /// Runs `tpdocker image push REFERENCE` as somebody who has logged in with `login`, or never.
    fn push(&self, reference: &str, login: Option<&str>) -> Output {
        let config = tempfile::tempdir().unwrap();
        if let Some(login) = login {
            let auths = serde_json::json!({ "auths": { (&self.address): { "auth": login } } });
            std::fs::write(config.path().join("config.json"), auths.to_string()).unwrap();
        }
        Command::new(env!("CARGO_BIN_EXE_tpdocker"))
            .args(["image", "push", reference])
            // The engine is found by the context in the usual configuration, which this one hides.
            .env("DOCKER_HOST", format!("unix://{}", self.session.engine.socket().display()))
            .env("DOCKER_CONFIG", config.path())
            .output()
            .unwrap()
    }
}

/// The name that a push gives the image in the engine.
struct Tag(String);

impl Drop for Tag {
    fn drop(&mut self) {
        docker(&["image", "rm", &self.0]);
    }
}

#[tokio::test]
async fn a_push_logs_in_and_prints_the_reference_of_what_the_registry_has() {
    let Some(session) = Session::begin().await else { return };
    let registry = Registry::start(&session);
    let (_, release) = image::proxy().reference().rsplit_once(':').unwrap();
    let repository = format!("{}/tools/tpdocker-proxy", registry.address);
    for (typed, tag) in [(repository.clone(), release), (format!("{repository}:latest"), "latest")] {
        let pushed = registry.push(&typed, Some(LOGIN));
        let reference = Tag(format!("{repository}:{tag}"));
        assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
        assert_eq!(String::from_utf8(pushed.stdout).unwrap(), format!("{}\n", reference.0), "for --proxy-image");

        let path = format!("/v2/tools/tpdocker-proxy/manifests/{tag}");
        assert_eq!(registry.get(&path, None).unwrap().0, 401, "the registry is not open to all");
        let (status, manifest) = registry.get(&path, Some(LOGIN)).unwrap();
        assert_eq!(status, 200, "{manifest}");
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        let (_, digits) = release.rsplit_once('-').unwrap();
        let config = manifest["config"]["digest"].as_str().unwrap();
        assert!(config.starts_with(&format!("sha256:{digits}")), "{config} is the image of {release}");
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_push_with_a_wrong_login_or_none_is_denied_with_the_cure() {
    let Some(session) = Session::begin().await else { return };
    let registry = Registry::start(&session);
    let reference = Tag(format!("{}/tools/tpdocker-proxy:denied", registry.address));
    for login in [Some(WRONG_LOGIN), None] {
        let refused = registry.push(&reference.0, login);
        let stderr = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(86), "{stderr}");
        assert!(refused.stdout.is_empty());
        assert!(stderr.contains(&format!("the registry of {} refused access", reference.0)), "{stderr}");
        assert!(stderr.contains(&format!("docker login {}\n", registry.address)), "{stderr}");
    }
}
