//! The pod's address, in the app's namespace: `getsockname()` says here what it says in the pod.
//!
//! The pod's addresses are put on `lo`, where the app can bind to them, and two routes that together are the default
//! route make one of them the source of what goes to the cluster. What goes elsewhere keeps the container's own address:
//! neighbours have a route of their own, and bypass networks are given one. The engine's default route is left alone,
//! since the engine moves it when the container joins or leaves a network; each such change is followed here.
//!
//! A pod that is lost is replaced by one with another address, which then is the source. The former address stays: the
//! app may be bound to it, and its environment, `$POD_IP` for example, goes on naming it.
//!
//! What was set stays in the kernel when the data plane dies; the next one is told again, and finds what is right
//! already.

mod plan;
mod rtnetlink;

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use nix::errno::Errno as OsErrno;
use tokio::io::unix::AsyncFd;

use self::{
    plan::{Change, Found, Wanted},
    rtnetlink::Kernel,
};
use crate::capture::{Addresses, Cidr, netlink::Socket, reactor};

/// An engine that connects a network makes a handful of changes within milliseconds.
const SETTLING: Duration = Duration::from_millis(50);
/// Longer than any notification.
const BUFFER: usize = 32 << 10;

/// Keeps the namespace's addresses and routes as they are wanted.
#[derive(Debug)]
pub(crate) struct PodAddresses {
    kernel: Kernel,
    /// `None` until the CLI has said; what an earlier data plane has set stays until then.
    wanted: Option<Wanted>,
}

/// Changes of the namespace's addresses and routes, whoever made them.
#[derive(Debug)]
pub(crate) struct Changes {
    socket: AsyncFd<Arc<Socket>>,
}

/// What the kernel refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddressError {
    #[error("cannot list the namespace's addresses and routes: {0}")]
    List(io::Error),
    #[error("cannot {change}: {error}")]
    Change { change: String, error: io::Error },
}

// === impl PodAddresses ===

impl PodAddresses {
    /// In the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { kernel: Kernel::open()?, wanted: None })
    }

    /// Gives the namespace the pod's addresses, and returns what it has then.
    pub(crate) fn set(&mut self, pod: &[IpAddr], bypass: &[Cidr]) -> Result<Addresses, AddressError> {
        let wanted = self.wanted.insert(Wanted { pod: pod.to_vec(), bypass: bypass.to_vec() });
        renew(&mut self.kernel, wanted)
    }

    /// Sets again what has been undone; `None` before [`Self::set`].
    pub(crate) fn renew(&mut self) -> Result<Option<Addresses>, AddressError> {
        self.wanted.as_ref().map(|wanted| renew(&mut self.kernel, wanted)).transpose()
    }
}

fn renew(kernel: &mut Kernel, wanted: &Wanted) -> Result<Addresses, AddressError> {
    let found = kernel.list().map_err(AddressError::List)?;
    for change in plan::changes(wanted, &found) {
        match kernel.apply(&change) {
            Ok(()) => tracing::debug!("{change}"),
            Err(error) if is_done(&change, &error) => {}
            // A namespace without IPv6 is what engines make of a network without it; the app then uses IPv4.
            Err(error) if change.is_ipv6() => tracing::info!("cannot {change}: {error}"),
            Err(error) => return Err(AddressError::Change { change: change.to_string(), error }),
        }
    }
    // What the namespace has and not what it was told: an address of IPv6 may not have been taken.
    let found = kernel.list().map_err(AddressError::List)?;
    Ok(addresses(wanted, &found))
}

/// Somebody was faster.
fn is_done(change: &Change, error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(OsErrno::from_raw);
    match change {
        Change::AddAddress(_) | Change::AddRoute(_) => errno == Some(OsErrno::EEXIST),
        Change::RemoveAddress(_) => errno == Some(OsErrno::EADDRNOTAVAIL),
        Change::RemoveRoute(_) => errno == Some(OsErrno::ESRCH),
    }
}

fn addresses(wanted: &Wanted, found: &Found) -> Addresses {
    let has = |ip: &&IpAddr| found.addresses.iter().any(|address| address.ip == **ip);
    let container = found.container().filter_map(|address| Some((address.ip, Cidr::new(address.ip, address.prefix)?)));
    let former = found.addresses.iter().filter(|address| address.is_former(wanted)).map(|address| address.ip);
    let pod = wanted.pod.iter().filter(has).copied().chain(former);
    Addresses { pod: pod.collect(), container: container.collect() }
}

// === impl Changes ===

impl Changes {
    /// Of the calling thread's network namespace; within a tokio runtime.
    pub(crate) fn subscribe() -> io::Result<Self> {
        Ok(Self { socket: reactor::readable(Arc::new(rtnetlink::notifications()?))? })
    }

    /// Resolves some time after a change, when more are not likely.
    pub(crate) async fn next(&mut self) -> io::Result<()> {
        drop(self.socket.readable().await?);
        tokio::time::sleep(SETTLING).await;
        let mut buffer = vec![0; BUFFER];
        let mut guard = self.socket.readable().await?;
        loop {
            match guard.try_io(|socket| socket.get_ref().recv(&mut buffer).map(drop)) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => match error.raw_os_error().map(OsErrno::from_raw) {
                    // More than fit: there was a change, which is all that is asked.
                    Some(OsErrno::ENOBUFS | OsErrno::EINTR) => {}
                    _ if error.kind() == io::ErrorKind::FileTooLarge => {}
                    _ => return Err(error),
                },
                Err(_would_block) => return Ok(()),
            }
        }
    }
}
