//! What of the laptop stays in reach: Docker networks, the laptop itself, published ports; and what happens when the
//! sidecar does not.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use crate::namespace::{LAPTOP, MACHINE, Machine};
use crate::support::{
    NAMESPACE, PATIENCE, SERVICE_IMAGE, Tpdocker, assert_restored, docker, get_from_a_pod, output, repo, staging,
    until, world,
};

const APP: &str = "tpdocker-e2e-reach";

/// `run --swap servicename` of a Python script.
fn python(flags: &[&str], script: &str) -> Tpdocker {
    let front = ["run", "--swap", "servicename", "-n", NAMESPACE, "--rm", "--name", APP];
    let back = ["--entrypoint", "python3", SERVICE_IMAGE, "-u", "-c", script];
    Tpdocker::start(&[&front[..], flags, &back].concat())
}

/// A Docker network with what is started on it.
struct Network {
    name: &'static str,
    image: String,
}

impl Network {
    fn new() -> Self {
        let image = output(&mut Command::new(repo("tests/support/busybox-image"))).trim_end().to_owned();
        let network = Self { name: "tpdocker-e2e-net", image };
        docker(&["network", "create", network.name]);
        network
    }

    /// A container that answers HTTP with its own name.
    fn start(&self, name: &str, alias: &str) {
        let serve = format!("mkdir /w; echo {name} > /w/index.html; httpd -f -p 80 -h /w");
        let network = ["--network", self.name, "--network-alias", alias];
        let front = ["run", "-d", "--rm", "--stop-timeout", "0", "--name", name];
        docker(&[&front[..], &network, &[&self.image, "sh", "-c", &serve]].concat());
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let members = docker(&["ps", "-aq", "--filter", &format!("network={}", self.name)]);
        for member in members.lines() {
            // One that is just going by itself (`--rm`) is no failure.
            let removed = Command::new("docker").args(["rm", "-f", member]).output().unwrap();
            print!("{}", String::from_utf8_lossy(&removed.stderr));
        }
        until("the network to be empty", PATIENCE, || {
            let removed = Command::new("docker").args(["network", "rm", self.name]).output().unwrap();
            if removed.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&removed.stderr).into_owned()) }
        });
    }
}

/// A server of the laptop that greets whoever connects.
fn greeter(address: Ipv4Addr, greeting: &'static str) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            // A caller that has gone already is no failure of the greeter.
            let _ = connection.and_then(|mut connection| connection.write_all(greeting.as_bytes()));
        }
    });
    port
}

#[test]
fn containers_of_a_declared_network_are_reached_by_name_whenever_they_start() {
    const SCRIPT: &str = "
import socket, time, urllib.request
def get(host): return urllib.request.urlopen(f'http://{host}/', timeout=10).read().decode().strip()
print(get('tpdocker-e2e-first'), get('db'), get('db.' + open('/etc/resolv.conf').read().split('search ')[1].split()[0]))
print(socket.getaddrinfo('thing1', 80)[0][4][0].startswith('10.96.'), get('thing1')[:10])
for _ in range(300):
    try: print(get('late')); break
    except OSError: time.sleep(.2)
";
    let _staging = staging();
    let before = world();
    {
        let network = Network::new();
        network.start("tpdocker-e2e-first", "db");
        let session = python(&["--network", network.name], SCRIPT);
        until("the app to look for a sibling that is not there", PATIENCE, || {
            if session.stdout().contains("{\"thing\"") { Ok(()) } else { Err(session.stderr()) }
        });
        network.start("tpdocker-e2e-second", "late");
        let ended = session.wait().code(0);
        let lines: Vec<&str> = ended.stdout.lines().collect();
        let first = ["tpdocker-e2e-first"; 3].join(" ");
        assert_eq!(lines, [&first, "True {\"thing\": ", "tpdocker-e2e-second"], "{}", ended.stderr);
        assert!(ended.stderr.contains("direct: tpdocker-e2e-net "), "{}", ended.stderr);
    }
    assert_restored(&before);
}

#[test]
fn a_service_of_a_compose_project_hides_the_clusters_service_of_its_name() {
    let _staging = staging();
    let before = world();
    let file = repo("compose-examples/siblings/compose.yaml");
    let compose = |action| Tpdocker::start(&["compose", "-f", file.to_str().unwrap(), action]);
    let session = compose("up");
    let answer = until("the composed copy to answer", PATIENCE, || match get_from_a_pod("http://servicename/") {
        Ok(answer) if answer["copy"] == "laptop" => Ok(answer),
        other => Err(format!("{other:?}\n{}", session.stderr())),
    });
    assert_eq!(answer["thing2"]["thing"], "the laptop's thing2", "{answer}");
    assert_eq!(answer["thing1"]["thing"], "thing1", "{answer}");
    assert_eq!(get_from_a_pod("http://thing2:9090/").unwrap()["thing"], "thing2");
    session.interrupt();
    compose("down").wait().code(0);
    assert_restored(&before);
}

#[test]
fn the_laptop_is_reached_by_its_name_and_its_localhost_through_declared_ports() {
    const SCRIPT: &str = "
import errno, os, socket
def greeting(host, port):
    with socket.create_connection((host, int(port)), 10) as s: return s.recv(100).decode()
print(greeting('host.docker.internal', os.environ['OPEN']), greeting('me', os.environ['OPEN']), greeting('localhost', 9000))
try: print(greeting('localhost', 9001))
except OSError as e: print(errno.errorcode[e.errno])
";
    let _staging = staging();
    let before = world();
    let open = format!("OPEN={}", greeter(Ipv4Addr::UNSPECIFIED, "the-laptop"));
    let debugger = greeter(Ipv4Addr::LOCALHOST, "the-debugger");
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let debugger = format!("9000:{debugger}");
    let closed = format!("9001:{closed}");
    let ports = ["--container-to-host", &debugger, "--container-to-host", &closed];
    let flags = [&ports[..], &["--add-host", "me:host-gateway", "-e", &open]].concat();
    let ended = python(&flags, SCRIPT).wait().code(0);
    assert_eq!(ended.stdout, "the-laptop the-laptop the-debugger\nECONNRESET\n", "{}", ended.stderr);
    assert_restored(&before);
}

/// What an echo says behind the caller's address.
fn tcp(to: &str, message: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(to)?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    connection.write_all(message.as_bytes())?;
    connection.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

fn udp(to: &str, message: &str) -> std::io::Result<String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.connect(to)?;
    socket.send(message.as_bytes())?;
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

#[test]
fn published_ports_answer_the_laptop_and_other_machines_over_tcp_and_udp() {
    const SCRIPT: &str = "
import socket, threading
def datagrams():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 5353))
    while True:
        message, peer = s.recvfrom(100); s.sendto(peer[0].encode() + b' ' + message, peer)
threading.Thread(target=datagrams, daemon=True).start()
s = socket.create_server(('', 8080))
while True:
    c, peer = s.accept()
    with c: c.sendall(peer[0].encode() + b' ' + c.recv(100))
";
    let _staging = staging();
    let before = world();
    let machine = Machine::new();
    let session = python(&["-p", "18080:8080", "-p", "18053:5353/udp"], SCRIPT);
    session.says("is answered here");
    let said = |answer: std::io::Result<String>, message: &str| match answer {
        Ok(answer) if answer.ends_with(&format!(" {message}")) => Ok(answer),
        other => Err(format!("{other:?}")),
    };
    for host in ["127.0.0.1", LAPTOP] {
        until("the laptop to be answered", PATIENCE, || {
            said(tcp(&format!("{host}:18080"), "from the laptop"), "from the laptop")
        });
        until("its datagram, too", PATIENCE, || said(udp(&format!("{host}:18053"), "a datagram"), "a datagram"));
    }
    // Again and again: an answer must not make the next one look like traffic of the app's own.
    for round in 0..3 {
        let message = format!("round {round}");
        let answers =
            machine.run(|| [tcp(&format!("{LAPTOP}:18080"), &message), udp(&format!("{LAPTOP}:18053"), &message)]);
        for answer in answers {
            assert_eq!(answer.unwrap(), format!("{MACHINE} {message}"));
        }
    }
    session.interrupt();
    drop(machine);
    assert_restored(&before);
}

#[test]
fn a_removed_sidecar_ends_the_session_and_says_why() {
    let _staging = staging();
    let before = world();
    let session = python(&[], "import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port=8080)");
    session.says("is answered here");
    let owner = docker(&["inspect", "-f", "{{.HostConfig.NetworkMode}}", APP]);
    docker(&["rm", "-f", owner.trim().trim_start_matches("container:")]);
    let ended = session.wait().code(88);
    assert!(ended.stderr.contains("was stopped or removed, and the app's network went with it"), "{}", ended.stderr);
    assert_restored(&before);
}
