//! The layer under every handler: it keeps the slot of a job occupied until the handler is done.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use apalis_core::task::Task;
use muster_shared::queue::Ready;
use tower::{Layer, Service};

use crate::slots::Permit;

/// Added by [`ReadyBackend`](crate::ReadyBackend) to the worker that runs over it; nobody else needs it.
#[derive(Debug, Clone, Copy, Default)]
pub struct HoldLayer;

impl<S> Layer<S> for HoldLayer {
    type Service = Hold<S>;

    fn layer(&self, inner: S) -> Hold<S> {
        Hold { inner }
    }
}

/// A handler whose jobs occupy their slots.
#[derive(Debug, Clone)]
pub struct Hold<S> {
    inner: S,
}

impl<S> Service<Task<Ready>> for Hold<S>
where
    S: Service<Task<Ready>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, task: Task<Ready>) -> Self::Future {
        // The task may be taken apart before its handler runs, so it cannot be what keeps the permit.
        let permit: Option<Permit> = task.data().get().cloned();
        let handled = self.inner.call(task);
        Box::pin(async move {
            let _permit = permit;
            handled.await
        })
    }
}
