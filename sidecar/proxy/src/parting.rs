//! When a connection of a pod that is leaving is closed: where nobody waits for an answer. For a client that keeps
//! connections for its next request that is an end that it expects, and after which it asks anew (RFC 9112, section
//! 9.3.1). A client that asks all the time never rests; its next request is held until the answer to the one before is
//! complete, and the end comes then: no answer is cut short, and no request is done twice.
//!
//! An orderly end counts for the nodes as well. The kernel of a node remembers to which pod it has sent a connection; after
//! a reset by that pod it does so for ten seconds more, and a client that runs short of ports and takes the same one anew
//! would be sent to the pod that is gone. After a FIN the next SYN is a new connection (`tcp_packet` in
//! `nf_conntrack_proto_tcp.c`).

use std::net::Shutdown;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tpdocker_tunnel::Talk;

/// Without a byte for so long after an answer, nobody waits for more of it.
const REST: Duration = Duration::from_millis(300);
/// Time to rest before the asking is held.
const UNHELD: Duration = Duration::from_secs(2);

/// Whether the pod is leaving.
pub(crate) type Leaving = watch::Receiver<bool>;

/// Resolves when the pod is leaving and nobody waits for an answer.
pub(crate) async fn over(talk: &Talk, mut leaving: Leaving) {
    if leaving.wait_for(|leaving| *leaving).await.is_err() {
        // Without the sender there is no server any more that could leave.
        return std::future::pending().await;
    }
    let began = Instant::now();
    loop {
        let before = talk.asked() + talk.answered();
        sleep(REST).await;
        if talk.asked() + talk.answered() == before && !talk.is_awaited() {
            return;
        }
        if began.elapsed() > UNHELD {
            talk.hold();
        }
    }
}

/// Ends a connection in order: the peer reads an end, also where the kernel resets it a moment later because of what was
/// held.
pub(crate) fn end(socket: &TcpStream) {
    if let Err(error) = SockRef::from(socket).shutdown(Shutdown::Both) {
        tracing::debug!("a connection had ended already: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    #[tokio::test(start_paused = true)]
    async fn what_rests_is_over_at_once_and_what_is_awaited_is_not() {
        let leaving_tx = watch::Sender::new(true);
        let (talk, began) = (Talk::default(), Instant::now());
        over(&talk, leaving_tx.subscribe()).await;
        assert!(began.elapsed() < UNHELD);
        talk.ask(1);
        assert!(tokio::time::timeout(LONG, over(&talk, leaving_tx.subscribe())).await.is_err(), "somebody waits");
    }

    #[tokio::test(start_paused = true)]
    async fn who_stays_is_never_over() {
        let staying_tx = watch::Sender::new(false);
        let talk = Talk::default();
        assert!(tokio::time::timeout(LONG, over(&talk, staying_tx.subscribe())).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_asks_all_the_time_is_held_after_a_while_and_left_behind_its_last_answer() {
        let (leaving_tx, began) = (watch::Sender::new(true), Instant::now());
        let talk = Talk::default();
        let asks = async {
            while !talk.is_held() {
                talk.ask(1);
                for pause in [20, 200, 10] {
                    // An answer has pauses, too.
                    sleep(Duration::from_millis(pause)).await;
                    talk.answer(1);
                }
                sleep(Duration::from_millis(10)).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = asks => {}
            () = over(&talk, leaving_tx.subscribe()) => {}
        }
        assert!(began.elapsed() > UNHELD && began.elapsed() < UNHELD + 4 * REST, "{:?}", began.elapsed());
        assert_eq!(talk.answered(), 3 * talk.asked(), "an answer was cut short");
    }
}
