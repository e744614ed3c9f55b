//! Claims in batches: while one claim is in flight, the next ids gather.

use std::sync::Arc;

use muster_shared::{
    CORE_REV,
    ids::{Incarnation, InstanceId},
    store::{Claimed, Store, StoreError, StoredEvent},
};
use tokio::sync::{mpsc, oneshot};

/// Ids that one statement claims at most.
const BATCH: usize = 256;
/// Claims in flight at once.
const IN_FLIGHT: usize = 2;

/// A claimed instance with its log.
pub(crate) type Owned = (Claimed, Vec<StoredEvent>);

type Request = (InstanceId, oneshot::Sender<Option<Owned>>);

/// A handle on the claiming tasks of one incarnation. They end when the last handle is gone.
#[derive(Clone)]
pub(crate) struct Claimer(mpsc::Sender<Request>);

impl Claimer {
    /// Starts the claiming tasks.
    pub(crate) fn start(store: Arc<dyn Store>, worker: Incarnation) -> Self {
        let (sender, requests) = mpsc::channel::<Request>(4 * BATCH);
        let requests = Arc::new(tokio::sync::Mutex::new(requests));
        for _ in 0..IN_FLIGHT {
            tokio::spawn(run(store.clone(), worker, requests.clone()));
        }
        Self(sender)
    }

    /// Claims one instance; `None` when it cannot be claimed: acknowledge its message and drop it.
    pub(crate) async fn claim(&self, id: InstanceId) -> Option<Owned> {
        let (answer, answered) = oneshot::channel();
        self.0.send((id, answer)).await.ok()?;
        answered.await.ok().flatten()
    }
}

async fn run(store: Arc<dyn Store>, worker: Incarnation, requests: Arc<tokio::sync::Mutex<mpsc::Receiver<Request>>>) {
    loop {
        let mut batch = Vec::with_capacity(BATCH);
        if requests.lock().await.recv_many(&mut batch, BATCH).await == 0 {
            return;
        }
        let ids: Vec<InstanceId> = batch.iter().map(|(id, _)| *id).collect();
        let mut owned = match claim(&*store, worker, &ids).await {
            Ok(owned) => owned,
            Err(error) => {
                // What was claimed all the same is given back by reconciliation, what was not is granted again.
                tracing::warn!(%error, count = ids.len(), "claim failed; the grants are pushed again once they are old");
                Vec::new()
            }
        };
        metrics::histogram!("muster_claim_batch_rows").record(ids.len() as f64);
        for (id, answer) in batch {
            let found = owned.iter().position(|(claimed, _)| claimed.lease.instance == id).map(|at| owned.swap_remove(at));
            // A handler that is gone no longer wants it; reconciliation gives it back.
            let _ = answer.send(found);
        }
    }
}

/// Two statements, in this order: an append that commits while the claim waits is then seen (rule 1).
async fn claim(store: &dyn Store, worker: Incarnation, ids: &[InstanceId]) -> Result<Vec<Owned>, StoreError> {
    let claimed = store.claim(worker, CORE_REV, ids).await?;
    let with_log: Vec<&Claimed> = claimed.iter().filter(|claimed| claimed.last_seq > 0).collect();
    let mut logs = if with_log.is_empty() { Vec::new() } else { store.logs(&with_log).await? }.into_iter();
    let owned = claimed.into_iter().map(|claimed| {
        let log = if claimed.last_seq > 0 { logs.next().unwrap_or_default() } else { Vec::new() };
        (claimed, log)
    });
    Ok(owned.collect())
}
