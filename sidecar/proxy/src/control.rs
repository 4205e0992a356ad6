//! Answers to the CLI on an admitted control connection.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tpdocker_protocol::contract::CLIENT_GONE_AFTER;
use tpdocker_protocol::control::{ProxyReply, ProxyRequest, ProxyStatus};
use tpdocker_tunnel::messages::{MessageError, Messages};

use crate::handover::Handover;
use crate::letterbox::{Lease, Letterbox};
use crate::{files, pod};

/// Serves one connection until the CLI is done with it.
pub(crate) async fn serve(
    connection: TcpStream,
    mut status_rx: watch::Receiver<ProxyStatus>,
    handover: &Handover,
    letterbox: &Arc<Letterbox>,
) -> Result<(), MessageError> {
    let mut messages = Messages::new(connection);
    let mut watching = false;
    let mut lease: Option<Lease> = None;
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            request = messages.receive() => match request.inspect(|_| heard = Instant::now())? {
                None => return Ok(()),
                Some(ProxyRequest::Describe) => messages.send(&describe()).await?,
                Some(ProxyRequest::Watch) => {
                    watching = true;
                    status_rx.mark_changed();
                }
                Some(ProxyRequest::HandOver { to }) => {
                    handover.hand_over(to);
                    messages.send(&ProxyReply::HandedOver).await?;
                }
                Some(ProxyRequest::Files(request)) => return files::serve(messages, request).await,
                Some(ProxyRequest::Keep(letter)) => {
                    // First, so that a letter whose client is there is never without it.
                    lease.get_or_insert_with(|| letterbox.lease()).heard();
                    let reply = match letterbox.keep(*letter) {
                        Ok(()) => ProxyReply::Kept,
                        Err(error) => ProxyReply::Error { message: error.to_string() },
                    };
                    messages.send(&reply).await?;
                }
                Some(ProxyRequest::Try) => messages.send(&ProxyReply::Tried { failed: letterbox.look().await }).await?,
                Some(ProxyRequest::There) => {
                    lease.iter().for_each(Lease::heard);
                    messages.send(&ProxyReply::Heard).await?;
                }
            },
            () = sleep_until(heard + CLIENT_GONE_AFTER), if lease.is_some() => {
                tracing::info!("the client says nothing any more");
                return Ok(());
            }
            changed = status_rx.changed(), if watching => {
                if changed.is_err() {
                    return Ok(());
                }
                let status = status_rx.borrow_and_update().clone();
                messages.send(&ProxyReply::Status(status)).await?;
            }
        }
    }
}

fn describe() -> ProxyReply {
    match pod::describe() {
        Ok(view) => ProxyReply::Pod(view),
        Err(error) => ProxyReply::Error { message: error.to_string() },
    }
}
