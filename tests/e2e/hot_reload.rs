//! Hot reload: the source is mounted from the laptop, the app's own reloader sees an edit, and so does the cluster.

use std::fs;

use crate::support::{
    NAMESPACE, PATIENCE, SERVICE_IMAGE, Tpdocker, assert_restored, get_from_a_pod, repo, staging, until,
    until_answered_by, world,
};

#[test]
fn an_edit_on_the_laptop_is_seen_through_the_clusters_service() {
    let _staging = staging();
    let before = world();
    let source = tempfile::tempdir().unwrap();
    for file in ["app.py", "reload.py"] {
        fs::copy(repo("images/servicename").join(file), source.path().join(file)).unwrap();
    }
    open_to_everybody(source.path());
    let mount = format!("{}:/app", source.path().display());
    let flags = ["run", "--swap", "servicename", "-n", NAMESPACE, "--rm", "-e", "COPY=laptop", "-e", "RELOAD=1", "-v"];
    let session = Tpdocker::start(&[&flags[..], &[&mount, SERVICE_IMAGE]].concat());
    until_answered_by("laptop");
    let app = source.path().join("app.py");
    let text = fs::read_to_string(&app).unwrap();
    let edited = text.replace(r#""service": "servicename""#, r#""service": "edited on the laptop""#);
    assert_ne!(text, edited);
    fs::write(&app, edited).unwrap();
    until("the edit to be seen in the cluster", PATIENCE, || match get_from_a_pod("http://servicename/") {
        Ok(answer) if answer["service"] == "edited on the laptop" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    session.interrupt();
    assert_restored(&before);
}

/// The image runs as `nobody`, and the test's directory is for its owner only.
fn open_to_everybody(directory: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
}
