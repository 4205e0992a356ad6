//! The login for a registry, from where `docker login` put it: a credential helper, or the configuration file.
//!
//! A helper is a program `docker-credential-NAME`: it takes `get` as its argument and the registry on stdin, and answers
//! with JSON (<https://docs.docker.com/reference/cli/docker/login/#credential-helpers>).

use std::process::Stdio;

use bollard::auth::DockerCredentials;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::config::{ConfigFile, StoredLogin};
use super::error::EngineError;

/// The name under which `docker login` keeps Docker Hub, whose images name no registry at all.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// Docker Hub, as people call it.
const HUB: &str = "docker.io";

/// What a helper says when it has nothing; it says so on stdout and with a failure.
const HELPER_HAS_NOTHING: &str = "credentials not found";

/// User name by which a helper tells that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// The registry of `image`, as `docker login` takes it.
pub(super) fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => HUB,
    }
}

/// The login for the registry of `image`; `None` when there is none, and the pull is anonymous.
pub(super) async fn for_image(config: &ConfigFile, image: &str) -> Result<Option<DockerCredentials>, EngineError> {
    let registry = registry_of(image);
    let key = if registry == HUB { HUB_KEY } else { registry };
    let helper =
        config.cred_helpers.get(key).or_else(|| config.cred_helpers.get(registry)).or(config.creds_store.as_ref());
    if let Some(helper) = helper.filter(|helper| !helper.is_empty()) {
        return ask_helper(&format!("docker-credential-{helper}"), key).await;
    }
    let keys = [key.to_owned(), registry.to_owned(), format!("https://{registry}"), format!("https://{registry}/v1/")];
    let Some(login) = keys.iter().find_map(|key| config.auths.get(key)) else { return Ok(None) };
    let credentials = from_file(login, key);
    // An entry without a login is what a helper leaves behind.
    if credentials.is_none() && login.auth.as_ref().is_some_and(|auth| !auth.is_empty()) {
        tracing::warn!(registry, "the login in Docker's configuration is malformed and not used");
    }
    Ok(credentials)
}

async fn ask_helper(program: &str, key: &str) -> Result<Option<DockerCredentials>, EngineError> {
    let failed = |message: String| EngineError::CredentialHelper { helper: program.to_owned(), message };
    let run = async {
        let mut helper = Command::new(program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = helper.stdin.take() {
            stdin.write_all(key.as_bytes()).await?;
        }
        helper.wait_with_output().await
    };
    let output = run.await.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        return if said.contains(HELPER_HAS_NOTHING) { Ok(None) } else { Err(failed(said)) };
    }
    let answer: HelperAnswer =
        serde_json::from_slice(&output.stdout).map_err(|error| failed(format!("malformed answer: {error}")))?;
    let serveraddress = Some(key.to_owned());
    Ok(Some(if answer.username == TOKEN_USER {
        DockerCredentials { identitytoken: Some(answer.secret), serveraddress, ..Default::default() }
    } else {
        let (username, password) = (Some(answer.username), Some(answer.secret));
        DockerCredentials { username, password, serveraddress, ..Default::default() }
    }))
}

fn from_file(login: &StoredLogin, key: &str) -> Option<DockerCredentials> {
    let serveraddress = Some(key.to_owned());
    if let Some(token) = login.identity_token.as_ref().filter(|token| !token.is_empty()) {
        return Some(DockerCredentials { identitytoken: Some(token.clone()), serveraddress, ..Default::default() });
    }
    let decoded = String::from_utf8(decode_base64(login.auth.as_deref()?)?).ok()?;
    let (username, password) = decoded.split_once(':')?;
    // Old clients padded what they encoded with zero bytes.
    let password = password.trim_end_matches('\0');
    Some(DockerCredentials {
        username: Some(username.to_owned()),
        password: Some(password.to_owned()),
        serveraddress,
        ..Default::default()
    })
}

/// RFC 4648 section 4; `None` for anything else.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.trim().trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn config(json: &str) -> ConfigFile {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_registry_is_the_first_part_when_it_looks_like_a_host() {
        for (image, registry) in [
            ("busybox", HUB),
            ("examplecom/servicename:1", HUB),
            ("localhost/x", "localhost"),
            ("registry.example.com:5000/a/b@sha256:0", "registry.example.com:5000"),
        ] {
            assert_eq!(registry_of(image), registry, "{image}");
        }
    }

    #[tokio::test]
    async fn a_login_in_the_file_is_decoded() {
        let config = config(r#"{"auths":{"registry.example.com":{"auth":"bWU6c2U6Y3JldA=="}}}"#);
        let login = for_image(&config, "registry.example.com/app").await.unwrap().unwrap();
        assert_eq!((login.username.as_deref(), login.password.as_deref()), (Some("me"), Some("se:cret")));
        assert!(for_image(&config, "elsewhere.example.com/app").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_helper_is_asked_for_the_registry_and_its_failure_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let helper = directory.path().join("docker-credential-x");
        std::fs::write(
            &helper,
            "#!/bin/sh\nread -r key || true\ncase $key in good*) echo '{\"ServerURL\":\"\",\"Username\":\"me\",\"Secret\":\"s\"}';; \
             none*) echo 'credentials not found in native keychain'; exit 1;; *) echo locked >&2; exit 1;; esac\n",
        )
        .unwrap();
        std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
        let helper = helper.to_str().unwrap();
        let ask = |key| ask_helper(helper, key);
        assert_eq!(ask("good.example.com").await.unwrap().unwrap().password.as_deref(), Some("s"));
        assert!(ask("none.example.com").await.unwrap().is_none());
        assert!(ask("bad.example.com").await.unwrap_err().to_string().contains("locked"));
    }
}
