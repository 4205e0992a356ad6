//! Answers to the CLI on an admitted control connection.

use tokio::net::TcpStream;
use tokio::sync::watch;
use tpdocker_protocol::control::{ProxyReply, ProxyRequest, ProxyStatus};
use tpdocker_tunnel::messages::{MessageError, Messages};

use crate::handover::Handover;
use crate::{files, pod};

/// Serves one connection until the CLI is done with it.
pub(crate) async fn serve(
    connection: TcpStream,
    mut status_rx: watch::Receiver<ProxyStatus>,
    handover: &Handover,
) -> Result<(), MessageError> {
    let mut messages = Messages::new(connection);
    let mut watching = false;
    loop {
        tokio::select! {
            request = messages.receive() => match request? {
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
            },
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
