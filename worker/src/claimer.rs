//! Claims in batches: while one claim is in flight, the next ids gather.

use std::sync::Arc;

use muster_shared::{
    CORE_REV,
    ids::{Incarnation, InstanceId},
    store::{Claimed, Entry, Lease, Store, StoreError},
};
use tokio::sync::{mpsc, oneshot};

/// Ids that one statement claims at most.
const BATCH: usize = 256;
/// Claims in flight at once.
const IN_FLIGHT: usize = 2;

/// A claimed instance with its log, or why the log cannot be read.
pub(crate) struct Owned {
    /// The instance.
    pub(crate) claimed: Claimed,
    /// Its log.
    pub(crate) log: Result<Vec<Entry>, StoreError>,
}

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
            let found = owned.iter().position(|one| one.claimed.lease.instance == id).map(|at| owned.swap_remove(at));
            // A handler that is gone no longer wants it; reconciliation gives it back.
            let _ = answer.send(found);
        }
    }
}

/// Two statements, in this order: an append that commits while the claim waits is then seen (rule 1).
async fn claim(store: &dyn Store, worker: Incarnation, ids: &[InstanceId]) -> Result<Vec<Owned>, StoreError> {
    let claimed = store.claim(worker, CORE_REV, ids).await?;
    let with_log: Vec<&Claimed> = claimed.iter().filter(|claimed| claimed.last_seq > 0).collect();
    let logs = if with_log.is_empty() { Ok(Vec::new()) } else { store.logs(&with_log).await };
    let mut logs = match logs {
        Ok(logs) => logs.into_iter().map(Ok).collect(),
        Err(StoreError::Unavailable(why)) => {
            give_back(store, &claimed).await;
            return Err(StoreError::Unavailable(why));
        }
        // One log that cannot be read must not stand in the way of the others.
        Err(_) => one_by_one(store, &with_log).await,
    }
    .into_iter();
    let owned = claimed.into_iter().map(|claimed| {
        let log = if claimed.last_seq > 0 { logs.next().unwrap_or_else(|| Ok(Vec::new())) } else { Ok(Vec::new()) };
        Owned { claimed, log }
    });
    Ok(owned.collect())
}

async fn one_by_one(store: &dyn Store, of: &[&Claimed]) -> Vec<Result<Vec<Entry>, StoreError>> {
    let mut logs = Vec::with_capacity(of.len());
    for one in of {
        logs.push(store.logs(&[*one]).await.map(|mut log| log.pop().unwrap_or_default()));
    }
    logs
}

/// What was claimed and cannot be driven now. If this fails too, reconciliation does it.
async fn give_back(store: &dyn Store, claimed: &[Claimed]) {
    let leases: Vec<Lease> = claimed.iter().map(|claimed| claimed.lease).collect();
    if let Err(error) = store.give_back(&leases).await {
        tracing::warn!(%error, count = leases.len(), "claimed, but the logs cannot be read now, and not given back; reconciliation does it");
    }
}
