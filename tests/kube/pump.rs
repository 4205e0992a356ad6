//! The carrier against a real pod.

use std::io;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tpdocker::cluster::{Cluster, ClusterError, PortForward};
use tpdocker::error::{Code, Explain as _};

use crate::support::{IMAGE, create, in_namespace};

/// For each connection: reads a byte and a length; `S` sends so many bytes, `K` takes them and answers with one.
const SERVER: &str = r#"
import socket, threading
def serve(c):
    kind, n = c.recv(1), int.from_bytes(c.recv(8, socket.MSG_WAITALL), "big")
    block = bytes(range(256)) * 1024
    if kind == b"S":
        while n > 0:
            c.sendall(block[:n]); n -= len(block)
    else:
        while n > 0:
            n -= len(c.recv(min(n, 1 << 18)))
        c.sendall(b"!")
    c.shutdown(socket.SHUT_WR)
s = socket.create_server(("127.0.0.1", 9000))
while True:
    threading.Thread(target=serve, args=[s.accept()[0]]).start()
"#;
const PORT: u16 = 9000;
const AMOUNT: u64 = 64 << 20;

async fn server(cluster: &Cluster) {
    create::<Pod>(
        cluster,
        json!({
            "metadata": { "name": "server" },
            // With a token it would be refused until the controller has made one (before Kubernetes 1.24).
            "spec": { "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false, "containers": [{
                "name": "server", "image": IMAGE, "imagePullPolicy": "Never", "command": ["python3", "-c", SERVER],
            }]},
        }),
    )
    .await;
    let pods: Api<Pod> = Api::namespaced(cluster.client().clone(), cluster.namespace());
    let running = kube::runtime::wait::await_condition(pods, "server", kube::runtime::conditions::is_pod_running());
    tokio::time::timeout(Duration::from_mins(1), running).await.unwrap().unwrap();
}

/// A connection on which the server has been asked.
async fn ask(cluster: &Cluster, kind: u8, amount: u64) -> io::Result<PortForward> {
    let mut stream = cluster.port_forward("server", PORT).await.unwrap();
    stream.write_all(&[&[kind][..], &amount.to_be_bytes()].concat()).await?;
    stream.flush().await?;
    Ok(stream)
}

async fn wait_listening(cluster: &Cluster) {
    let deadline = Instant::now() + Duration::from_secs(20);
    // A connection that the pod refuses may be closed before all of the question is written.
    while async { ask(cluster, b'S', 1).await?.read_u8().await }.await.is_err() {
        assert!(Instant::now() < deadline, "the server listens in time");
    }
}

fn rate(amount: u64, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let mebibytes = (amount >> 20) as f64;
    mebibytes / took.as_secs_f64()
}

#[tokio::test]
async fn bytes_pass_unchanged_in_both_directions() {
    in_namespace(|cluster| async move {
        server(&cluster).await;
        wait_listening(&cluster).await;

        let mut stream = ask(&cluster, b'S', AMOUNT).await.unwrap();
        let pattern: Vec<u8> = (0..=255).cycle().take(256 + (1 << 18)).collect();
        let (mut block, mut received, began) = (vec![0; 1 << 18], 0u64, Instant::now());
        loop {
            let count = stream.read(&mut block).await.unwrap();
            if count == 0 || received == AMOUNT {
                break;
            }
            let first = usize::from(received.to_le_bytes()[0]);
            assert!(block[..count] == pattern[first..first + count], "at {received}");
            received += count as u64;
        }
        assert_eq!(received, AMOUNT);
        println!("down {:.0} MiB/s", rate(AMOUNT, began.elapsed()));

        let mut stream = ask(&cluster, b'K', AMOUNT).await.unwrap();
        let (block, began) = (vec![7; 1 << 18], Instant::now());
        for _ in 0..AMOUNT / block.len() as u64 {
            stream.write_all(&block).await.unwrap();
        }
        stream.flush().await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'!');
        println!("up {:.0} MiB/s", rate(AMOUNT, began.elapsed()));
    })
    .await;
}

#[tokio::test]
async fn both_directions_at_once_from_two_tasks_do_not_wedge() {
    in_namespace(|cluster| async move {
        server(&cluster).await;
        wait_listening(&cluster).await;
        let (mut reader, mut writer) = tokio::io::split(ask(&cluster, b'K', AMOUNT).await.unwrap());
        let read = tokio::spawn(async move { reader.read_u8().await });
        let block = vec![7; 1 << 18];
        for _ in 0..AMOUNT / block.len() as u64 {
            writer.write_all(&block).await.unwrap();
        }
        writer.flush().await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(30), read).await.unwrap();
        assert_eq!(answer.unwrap().unwrap(), b'!');
    })
    .await;
}

#[tokio::test]
async fn a_port_on_which_nothing_listens_and_a_pod_that_is_not_there_are_told_apart() {
    in_namespace(|cluster| async move {
        server(&cluster).await;
        wait_listening(&cluster).await;
        let mut nobody = cluster.port_forward("server", 9).await.unwrap();
        let error = nobody.read_u8().await.unwrap_err();
        assert!(matches!(error.get_ref(), Some(it) if it.is::<ClusterError>()), "{error:?}");

        let error = cluster.port_forward("absent", 9).await.unwrap_err();
        assert_eq!(error.code(), Code::Tunnel);
        let ClusterError::Tunnel { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.status(), Some(404), "{source:?}");
    })
    .await;
}
