//! The pod's files, for the CLI: read as the swapped container would read them, and watched as the kubelet changes them.
//!
//! The proxy has the swapped container's mounts and its user, so what it cannot read the original could not either. It
//! only ever reads. A mount that is followed has the kubelet's layout: every name leads through the link `..data` into a
//! directory of one version, which the kubelet replaces as a whole. It is read until the link is the same before and
//! after, so a version is sent whole or not at all.

mod mountinfo;
mod reactor;
mod walk;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tpdocker_protocol::files::{DATA_LINK, FilesEvent, FilesRequest, MountRequest};
use tpdocker_tunnel::messages::{MessageError, Messages};

use self::mountinfo::MountPoints;
use self::walk::{Piece, WalkError, walk};
use self::watch::Watch;

/// Pieces of a copy between the thread that reads and the connection: a piece is at most a few hundred KiB.
const AHEAD: usize = 4;
/// After its new version is in force, the kubelet of some releases goes on to set groups and modes. So a version counts
/// as it is when two readings this far apart are the same.
const SETTLING: Duration = Duration::from_millis(150);
/// So often; a volume that changes all the time is sent as it was read last.
const READINGS: usize = 20;

/// Serves one connection until the CLI closes it.
pub(crate) async fn serve(mut messages: Messages<TcpStream>, request: FilesRequest) -> Result<(), MessageError> {
    let mounts = Arc::new(MountPoints::of_this_process());
    // Before the first reading: a change in between is seen.
    let watch = Watch::new(request.mounts.iter().filter(|mount| mount.follow).map(|mount| Path::new(&mount.path)));
    let mut versions: Vec<Option<PathBuf>> = vec![None; request.mounts.len()];
    for (index, mount) in request.mounts.iter().enumerate() {
        versions[index] = version(mount);
        if mount.follow {
            send_version(&mut messages, index, mount, &mounts, false).await?;
        } else {
            send_copy(&mut messages, index, mount, &mounts).await?;
        }
    }
    messages.send(&FilesEvent::Watching { by: watch.by().to_owned() }).await?;
    loop {
        tokio::select! {
            // Nothing more is asked here: what arrives is the end.
            request = messages.receive::<FilesRequest>() => return request.map(|_| ()),
            () = watch.changed() => {}
        }
        for (index, mount) in request.mounts.iter().enumerate().filter(|(_, mount)| mount.follow) {
            let now = version(mount);
            if now.is_some() && now != versions[index] {
                tracing::info!(path = mount.path, ?now, "a new version is in force");
                send_version(&mut messages, index, mount, &mounts, true).await?;
                versions[index] = now;
            }
        }
    }
}

/// The version that is in force, by the name of its directory.
fn version(mount: &MountRequest) -> Option<PathBuf> {
    std::fs::read_link(Path::new(&mount.path).join(DATA_LINK)).ok()
}

async fn send_version(
    messages: &mut Messages<TcpStream>,
    index: usize,
    mount: &MountRequest,
    mounts: &Arc<MountPoints>,
    changed: bool,
) -> Result<(), MessageError> {
    messages.send(&FilesEvent::Mount { index }).await?;
    let (of, among) = (mount.clone(), Arc::clone(mounts));
    let read = tokio::task::spawn_blocking(move || settled(&of, &among, changed)).await;
    let read = read.unwrap_or_else(|panicked| Err(WalkError::from(std::io::Error::other(panicked))));
    match read {
        Ok(reading) => {
            for piece in &reading.pieces {
                send_piece(messages, piece).await?;
            }
            messages.send(&FilesEvent::End { left_out: reading.left_out }).await
        }
        Err(error) => messages.send(&FilesEvent::Failed { message: error.to_string() }).await,
    }
}

/// A mount as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reading {
    pieces: Vec<Piece>,
    left_out: Vec<String>,
}

/// Reads until the version is the same before and after, and, when it has `changed` just now, until it has settled.
fn settled(mount: &MountRequest, mounts: &MountPoints, changed: bool) -> Result<Reading, WalkError> {
    let mut last: Option<Reading> = None;
    let mut failure = None;
    for _ in 0..READINGS {
        let before = version(mount);
        let mut pieces = Vec::new();
        let read = walk(Path::new(&mount.path), mounts, mount.limit(), &mut |piece| {
            pieces.push(piece);
            true
        });
        let same = before == version(mount);
        match read {
            Ok(left_out) if same => {
                let reading = Reading { pieces, left_out };
                if !changed || last.as_ref() == Some(&reading) {
                    return Ok(reading);
                }
                last = Some(reading);
            }
            Err(error) if same && !error.is_not_found() => return Err(error),
            Err(error) => failure = Some(error),
            Ok(_) => {}
        }
        std::thread::sleep(SETTLING);
    }
    match (last, failure) {
        (Some(reading), _) => Ok(reading),
        (None, Some(error)) => Err(error),
        (None, None) => Err(WalkError::Restless),
    }
}

/// Sends a mount that may be large while it is being read.
async fn send_copy(
    messages: &mut Messages<TcpStream>,
    index: usize,
    mount: &MountRequest,
    mounts: &Arc<MountPoints>,
) -> Result<(), MessageError> {
    messages.send(&FilesEvent::Mount { index }).await?;
    let (piece_tx, mut piece_rx) = mpsc::channel(AHEAD);
    let (of, among) = (mount.clone(), Arc::clone(mounts));
    let reader = tokio::task::spawn_blocking(move || {
        walk(Path::new(&of.path), &among, of.limit(), &mut |piece| piece_tx.blocking_send(piece).is_ok())
    });
    let mut owed = 0;
    while let Some(piece) = piece_rx.recv().await {
        owed = match &piece {
            Piece::Node(node) => node.size(),
            Piece::Data(data) => owed - data.len() as u64,
        };
        send_piece(messages, &piece).await?;
    }
    let read = reader.await.unwrap_or_else(|panicked| Err(WalkError::from(std::io::Error::other(panicked))));
    match read {
        Ok(left_out) => messages.send(&FilesEvent::End { left_out }).await,
        // Only between two nodes can the failure be told; inside of one the CLI takes whatever comes for content.
        Err(error) if owed == 0 => messages.send(&FilesEvent::Failed { message: error.to_string() }).await,
        Err(error) => Err(std::io::Error::other(error).into()),
    }
}

async fn send_piece(messages: &mut Messages<TcpStream>, piece: &Piece) -> Result<(), MessageError> {
    match piece {
        Piece::Node(node) => messages.send(&FilesEvent::Node(node.clone())).await,
        Piece::Data(data) => messages.send_raw(data).await,
    }
}
