//! Where the probe runs: its image, and a namespace of its own with everything that it meets, gone when dropped.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{docker, kubectl_in, load_proxy_image, output, repo};

/// The namespace.
pub const NAMESPACE: &str = "fidelity";
/// The probe's image.
pub const IMAGE: &str = "tpdocker-test/probe:latest";
/// An image with glibc and Python.
pub const GLIBC_IMAGE: &str = "examplecom/servicename:latest";
/// The database outside of the cluster.
pub const DATABASE: &str = "mydb.abc123.us-east-1.rds.amazonaws.com";

/// Variables of `bulk`: their names begin with this, and there are so many.
const BULK: &str = "BULK_";
const BULK_COUNT: usize = 2500;
/// Words in the live file: more than one read or write of usual buffers.
const LIVE_WORDS: usize = 2000;
/// A connection stays idle for so long.
const IDLE_SECONDS: u64 = 120;
/// So much goes through one stream in each direction.
const STREAM_BYTES: u64 = 1 << 30;
const ROLLOUT: &str = "--timeout=90s";
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

pub struct Place {
    pub directory: tempfile::TempDir,
}

// === impl Place ===

impl Place {
    /// Makes the namespace and waits until all is ready.
    pub fn make() -> Self {
        let place = Self { directory: tempfile::tempdir().expect("a temporary directory") };
        // What an interrupted run left behind.
        delete_namespace();
        kubectl(&["create", "namespace", NAMESPACE]);
        let bulk =
            (0..BULK_COUNT).map(|at| (format!("{BULK}{at:04}"), json!(format!("value {at} of many, \"quoted\""))));
        let bulk: serde_json::Map<String, Value> = bulk.collect();
        place.apply("bulk", &config_map("bulk", &json!(bulk)).to_string());
        place.change_live(0);
        let fixtures = include_str!("fixtures.yaml");
        let fixtures = fixtures.replace("NAMESPACE", NAMESPACE).replace("DATABASE", DATABASE).replace("IMAGE", IMAGE);
        place.apply("fixtures", &fixtures);
        for workload in ["deployment/peer", "statefulset/db", "deployment/subject", "deployment/glibc"] {
            kubectl(&["rollout", "status", workload, ROLLOUT]);
        }
        place
    }

    fn apply(&self, name: &str, manifest: &str) {
        let file = self.directory.path().join(name);
        std::fs::write(&file, manifest).expect("a manifest");
        kubectl(&["apply", "-f", file.to_str().expect("UTF-8")]);
    }

    /// Gives the live file its `n`th value, and makes the kubelet look at the subject's volumes.
    pub fn change_live(&self, n: usize) {
        let value = vec![format!("value-{n:04}"); LIVE_WORDS].join("\n");
        self.apply("live", &config_map("live", &json!({"value": value})).to_string());
        // It looks at the volumes of a pod that has changed at once, and else once in a minute.
        let stamp = format!("fidelity/looked={n}");
        kubectl(&["annotate", "pods", "-l", "app=subject", "--overwrite", &stamp]);
    }

    /// The argument of `probe rows`, and of `probe idle`.
    pub fn targets() -> Value {
        let nowhere = output(&mut Command::new(repo("tests/cluster/nowhere")));
        let mut nowhere = nowhere.split_whitespace().map(str::to_owned);
        let mut next = || nowhere.next().expect("three addresses");
        let address = |service: &str| kubectl(&["get", "service", service, "-o=jsonpath={.spec.clusterIP}"]);
        let peers = kubectl(&["get", "pods", "-l", "app=peer", "-o=jsonpath={.items[*].status.podIP}"]);
        let volumes =
            ["config", "one/settings.yaml", "secret", "all", "pod", "live"].map(|it| format!("/etc/probe/{it}"));
        let volumes = volumes.into_iter().chain([ACCOUNT, "/scratch", "/scratch-below", "/data"].map(str::to_owned));
        json!({
            "peers": peers.split_whitespace().collect::<Vec<_>>(),
            "peer_service": address("peer"),
            "own_service": address("subject"),
            "empty_service": format!("{}:80", address("empty")),
            "unreachable": next(),
            "net_unreachable": next(),
            "filtered": next(),
            "namespace": NAMESPACE,
            "database": DATABASE,
            "volumes": volumes.collect::<Vec<_>>(),
            "live": "/etc/probe/live",
            "bulk_variables": BULK,
            "idle_seconds": IDLE_SECONDS,
            "idle_too": true,
            "bulk_bytes": STREAM_BYTES,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        delete_namespace();
    }
}

fn config_map(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn delete_namespace() {
    kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found"]);
    // Of no namespace, and bound to the claim that is gone.
    kubectl(&["delete", "persistentvolume", &format!("{NAMESPACE}-data"), "--ignore-not-found"]);
}

fn kubectl(arguments: &[&str]) -> String {
    output(kubectl_in(NAMESPACE).args(arguments))
}

/// Builds the probe and its image, and loads the images into the cluster: that one, and the proxy's of the binary under
/// test.
pub fn images() {
    let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is in the target directory");
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    output(
        Command::new(env!("CARGO"))
            .args(["build", "--locked", "--release", "--package", "tpdocker-test-probe", "--target", &target])
            .arg("--target-dir")
            .arg(target_dir)
            .current_dir(repo("")),
    );
    let context: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join("probe");
    std::fs::create_dir_all(&context).expect("a directory for the image");
    let built = target_dir.join(target).join("release/tpdocker-test-probe");
    std::fs::copy(built, context.join("probe")).expect("the probe is built");
    // A volume mounted below a directory that the image lacks makes the runtime create it; the probe needs none itself.
    std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY probe /probe\nENTRYPOINT [\"/probe\"]\n")
        .expect("a Dockerfile");
    docker(&["build", "-q", "-t", IMAGE, context.to_str().expect("UTF-8")]);
    output(Command::new(repo("tests/cluster/load")).args([IMAGE, GLIBC_IMAGE]));
    load_proxy_image();
}
