//! Going on where nothing but an answer is missing: what undoes a swap is safe to repeat, and an API server that restarts,
//! a VPN that flaps or a laptop that sleeps is back after a while. Giving up would leave the cluster as it is.

use std::time::{Duration, Instant};

use super::error::{Cause, ClusterError};

/// How long an undoing is tried: an upgrade of a control plane with one node takes minutes. Whoever waits for it can end
/// the waiting, and is told the command that does the rest.
const PATIENCE: Duration = Duration::from_mins(10);
/// First and longest pause between two attempts; an attempt on a server that hangs takes long enough by itself.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// Statuses of a server that is starting, overloaded, or cut off from its store or from the servers behind it.
const PASSING: [u16; 6] = [408, 429, 500, 502, 503, 504];

/// Repeats `attempt` for as long as it fails for want of an answer. `tell` is told so, once for each reason.
pub async fn patiently<T, A: Future<Output = Result<T, ClusterError>>>(
    mut attempt: impl FnMut() -> A,
    tell: impl Fn(String),
) -> Result<T, ClusterError> {
    let began = Instant::now();
    let mut pause = RETRY.0;
    let mut said = String::new();
    loop {
        let error = match attempt().await {
            Err(error) if may_pass(&error) && began.elapsed() < PATIENCE => error,
            ended => return ended,
        };
        let why = reason(&error);
        if why != said {
            tell(format!("the cluster does not answer; trying until it does: {why}"));
            said = why;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

/// Whether the same request may succeed later, with nobody doing anything about it.
pub(super) fn may_pass(error: &ClusterError) -> bool {
    match error {
        ClusterError::Request { source, .. } | ClusterError::Unreachable { source, .. } => match source {
            Cause::Way(_) | Cause::Timeout(_) => true,
            Cause::Status { code, .. } => PASSING.contains(code),
            Cause::Login(_) => false,
        },
        _ => false,
    }
}

fn reason(error: &ClusterError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    fn unanswered() -> ClusterError {
        ClusterError::request("scale it", Cause::Timeout(30))
    }

    #[tokio::test]
    async fn what_has_no_answer_is_tried_again_and_said_once() {
        let (attempts, told) = (Cell::new(0), RefCell::new(Vec::new()));
        let outcome = patiently(
            || {
                attempts.set(attempts.get() + 1);
                std::future::ready(if attempts.get() < 3 { Err(unanswered()) } else { Ok("back") })
            },
            |text| told.borrow_mut().push(text),
        );
        assert_eq!(outcome.await.unwrap(), "back");
        let said = "the cluster does not answer; trying until it does: cannot scale it: no answer in 30 s";
        assert_eq!(told.into_inner(), [said]);
    }

    #[tokio::test]
    async fn what_the_server_refuses_is_not_tried_again() {
        let attempts = Cell::new(0);
        let refused = Cause::Status { code: 403, reason: "Forbidden".into(), message: "no".into() };
        let refused = RefCell::new(Some(refused));
        let attempt = || {
            attempts.set(attempts.get() + 1);
            std::future::ready(Err::<(), _>(ClusterError::request("scale it", refused.take().unwrap())))
        };
        patiently(attempt, |text| panic!("{text}")).await.unwrap_err();
        assert_eq!(attempts.get(), 1);
    }
}
