//! The session that most tests have: the laptop's copy of `servicename` in the place of the original.

use nix::sys::signal::Signal;

use crate::support::{NAMESPACE, SERVICE_IMAGE, Tpdocker, kubectl};

/// Its command line; the copy says that it is the laptop's.
pub const SWAP: [&str; 9] =
    ["run", "--swap", "servicename", "-n", NAMESPACE, "--rm", "-e", "COPY=laptop", SERVICE_IMAGE];

/// The session, once the Service is answered on the laptop. The nodes hear of that a moment later.
pub fn swapped() -> Tpdocker {
    let session = Tpdocker::start(&SWAP);
    session.says("is answered here");
    session
}

/// What such a session leaves that was killed.
pub fn swapped_and_killed() {
    let session = swapped();
    session.signal(Signal::SIGKILL);
    session.wait();
}

/// How many replicas of the original are wanted.
pub fn replicas() -> String {
    kubectl(&["get", "deployment", "servicename", "-o=jsonpath={.spec.replicas}"])
}
