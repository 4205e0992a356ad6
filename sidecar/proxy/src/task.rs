//! A task that belongs to somebody: it ends with its owner.

use tokio::task::JoinHandle;

/// A spawned task that is aborted when this is dropped.
#[derive(Debug)]
pub(crate) struct OwnedTask(JoinHandle<()>);

impl OwnedTask {
    pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(future))
    }

    /// Aborts the task and waits until what it owned is gone: a port can be bound again after this.
    pub(crate) async fn stop(mut self) {
        self.0.abort();
        if let Err(error) = (&mut self.0).await
            && error.is_panic()
        {
            tracing::error!("a task panicked: {error}");
        }
    }
}

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}
