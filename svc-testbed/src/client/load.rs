//! Sustained HTTP load that counts every request it lost: our measure for "nothing failed while the agent restarted".

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    protocol::Load,
    report::LoadReport,
    tcp::{Connection, Failure, within},
};
use crate::serve::answer;

const REMEMBERED_FAILURES: usize = 10;
/// A worker whose request failed does not hammer a service that is gone.
const AFTER_FAILURE: Duration = Duration::from_millis(20);

struct Worker {
    load: Load,
    start: Instant,
    stop: CancellationToken,
    total: Arc<Mutex<LoadReport>>,
}

pub(super) async fn run(load: &Load, stop: CancellationToken) -> LoadReport {
    let start = Instant::now();
    let total = Arc::new(Mutex::new(LoadReport::default()));
    let mut workers = JoinSet::new();
    for number in 0..load.keepalive + load.fresh {
        let worker = Worker { load: load.clone(), start, stop: stop.clone(), total: Arc::clone(&total) };
        workers.spawn(worker.run(number < load.keepalive));
    }
    let all = async { while workers.join_next().await.is_some() {} };
    // Workers look at the token between requests: a request in flight is completed, not cut.
    if timeout(load.duration, all).await.is_err() {
        stop.cancel();
        while workers.join_next().await.is_some() {}
    }
    let mut report = total.lock().unwrap_or_else(PoisonError::into_inner).clone();
    report.elapsed = start.elapsed();
    report
}

impl Worker {
    async fn run(self, keep: bool) {
        let mut own = LoadReport::default();
        let mut kept = None;
        while !self.stop.is_cancelled() {
            let connection = kept.take();
            own.connections += u64::from(connection.is_none());
            match within(self.load.timeout, exchange(connection, self.load.to, self.load.reply)).await {
                Ok((pod, connection)) => {
                    own.requests += 1;
                    match own.backends.get_mut(&pod) {
                        Some(count) => *count += 1,
                        None => drop(own.backends.insert(pod, 1)),
                    }
                    kept = keep.then_some(connection);
                    if !self.load.pause.is_zero() {
                        tokio::time::sleep(self.load.pause).await;
                    }
                }
                Err(failure) => {
                    own.note(&failure, self.start.elapsed());
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
        self.total.lock().unwrap_or_else(PoisonError::into_inner).add(own);
    }
}

async fn exchange(kept: Option<Connection>, to: SocketAddr, reply: usize) -> Result<(String, Connection), Failure> {
    let mut connection = match kept {
        Some(connection) => connection,
        None => Connection::open(to, None).await?,
    };
    let received = connection.request(Bytes::new(), reply).await?;
    match answer::read_answer(&received) {
        Some((answer, true)) => Ok((answer.pod, connection)),
        _ => Err(Failure {
            outcome: super::Outcome::Other,
            text: format!("damaged answer: {:?}", String::from_utf8_lossy(&received[..received.len().min(200)])),
        }),
    }
}

impl LoadReport {
    fn note(&mut self, failure: &Failure, at: Duration) {
        *self.failures.entry(failure.outcome).or_default() += 1;
        if self.first_failures.len() < REMEMBERED_FAILURES {
            self.first_failures.push(format!("after {at:.3?}: {:?}: {}", failure.outcome, failure.text));
        }
    }

    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.connections += other.connections;
        for (outcome, count) in other.failures {
            *self.failures.entry(outcome).or_default() += count;
        }
        for (pod, count) in other.backends {
            *self.backends.entry(pod).or_default() += count;
        }
        let room = REMEMBERED_FAILURES.saturating_sub(self.first_failures.len());
        self.first_failures.extend(other.first_failures.into_iter().take(room));
    }
}
