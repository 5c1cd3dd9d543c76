//! Clients. The tests' side is [`Client`]: a handle on a process in a pod's namespace and cgroup that opens sockets, keeps
//! them, and reports what each experienced. The process's side is `run`, with one file per kind of traffic.

mod bulk;
mod load;
mod outcome;
mod ping;
mod protocol;
mod report;
mod run;
mod sockets;
mod tcp;
mod udp;

use std::{
    collections::HashMap,
    io::Write as _,
    net::SocketAddr,
    process::ChildStdin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
pub use outcome::Outcome;
pub use protocol::{Again, Bulk, Get, Load, Ping, Tcp, Udp};
use protocol::{Numbered, Reply, Request};
pub use report::{BulkReport, GetReport, LoadReport, Sample};
pub use run::run;
pub use tcp::get as fetch;

use crate::process::Process;

/// How much longer than its probes a client may take before it counts as broken.
const GRACE: Duration = Duration::from_secs(20);

type Waiting = Arc<Mutex<HashMap<u64, Sender<Reply>>>>;

pub struct Client {
    process: Process,
    requests: Mutex<ChildStdin>,
    waiting: Waiting,
    next: AtomicU64,
}

impl Client {
    pub(crate) fn start(mut process: Process) -> Result<Self> {
        let requests = Mutex::new(process.take_stdin().context("no stdin")?);
        let lines = process.take_lines().context("no stdout")?;
        let waiting = Waiting::default();
        let answered = Arc::clone(&waiting);
        thread::spawn(move || {
            for line in lines {
                let Ok(reply) = serde_json::from_str::<Numbered<Reply>>(&line) else { continue };
                let sender = answered.lock().unwrap_or_else(PoisonError::into_inner).remove(&reply.number);
                // A caller that stopped waiting is no error of the client.
                let _ = sender.map(|sender| sender.send(reply.content));
            }
            // Dropping the senders tells everybody who still waits.
            answered.lock().unwrap_or_else(PoisonError::into_inner).clear();
        });
        Ok(Self { process, requests, waiting, next: AtomicU64::new(1) })
    }

    pub fn tcp(&self, probe: Tcp) -> Result<Vec<Sample>> {
        let patience = patience(probe.timeout, probe.interval, probe.count);
        self.samples(Request::Tcp(probe), patience)
    }

    pub fn udp(&self, probe: Udp) -> Result<Vec<Sample>> {
        let patience = patience(probe.timeout * probe.packets.max(3), probe.interval, probe.count);
        self.samples(Request::Udp(probe), patience)
    }

    /// One more exchange on every held socket of that name.
    pub fn again(&self, again: Again) -> Result<Vec<Sample>> {
        let patience = patience(again.timeout * again.packets.max(1), Duration::ZERO, 100);
        self.samples(Request::Again(again), patience)
    }

    /// Closes the held sockets of that name.
    pub fn close(&self, name: &str) -> Result<()> {
        match self.ask(Request::Close(name.to_owned()))?.wait(GRACE)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    pub fn ping(&self, ping: Ping) -> Result<Vec<Sample>> {
        let patience = patience(ping.timeout, Duration::ZERO, ping.count);
        self.samples(Request::Ping(ping), patience)
    }

    pub fn get(&self, get: Get) -> Result<GetReport> {
        let patience = get.timeout;
        match self.ask(Request::Get(get))?.wait(patience + GRACE)? {
            Reply::Get(report) => Ok(report),
            other => Err(unexpected(other)),
        }
    }

    pub fn bulk(&self, bulk: Bulk) -> Result<BulkReport> {
        let patience = bulk.timeout;
        match self.ask(Request::Bulk(bulk))?.wait(patience + GRACE)? {
            Reply::Bulk(report) => Ok(report),
            other => Err(unexpected(other)),
        }
    }

    /// Runs a load to its end.
    pub fn load(&self, load: Load) -> Result<LoadReport> {
        let patience = load.duration + load.timeout;
        self.start_load(load)?.finish(patience)
    }

    /// Starts a load and returns; other probes of this client go on beside it.
    pub fn start_load(&self, load: Load) -> Result<RunningLoad<'_>> {
        Ok(RunningLoad { client: self, pending: self.ask(Request::Load(load))? })
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn samples(&self, request: Request, patience: Duration) -> Result<Vec<Sample>> {
        match self.ask(request)?.wait(patience + GRACE)? {
            Reply::Samples(samples) => Ok(samples),
            other => Err(unexpected(other)),
        }
    }

    fn ask(&self, content: Request) -> Result<Pending> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, replies) = mpsc::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(number, sender);
        let mut line = serde_json::to_vec(&Numbered { number, content })?;
        line.push(b'\n');
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let written = requests.write_all(&line);
        written.with_context(|| format!("the client is gone{}", self.process.last_words()))?;
        Ok(Pending { number, replies })
    }
}

struct Pending {
    number: u64,
    replies: Receiver<Reply>,
}

impl Pending {
    fn wait(self, patience: Duration) -> Result<Reply> {
        match self.replies.recv_timeout(patience) {
            Ok(Reply::Error(error)) => bail!("the client cannot do that: {error}"),
            Ok(reply) => Ok(reply),
            Err(error) => Err(anyhow!("no report from the client: {error}")),
        }
    }
}

/// A load in progress.
pub struct RunningLoad<'a> {
    client: &'a Client,
    pending: Pending,
}

impl RunningLoad<'_> {
    /// Tells the load to end and returns what it experienced.
    pub fn stop(self) -> Result<LoadReport> {
        let _stopped = self.client.ask(Request::Stop(self.pending.number))?;
        self.finish(GRACE)
    }

    fn finish(self, patience: Duration) -> Result<LoadReport> {
        match self.pending.wait(patience + GRACE)? {
            Reply::Load(report) => Ok(report),
            other => Err(unexpected(other)),
        }
    }
}

fn patience(timeout: Duration, interval: Duration, count: u32) -> Duration {
    (timeout + interval) * count.max(1)
}

fn unexpected(reply: Reply) -> anyhow::Error {
    anyhow!("the client answered something else: {reply:?}")
}

/// Pods that answered, with the number of samples each answered.
pub fn by_pod(samples: &[Sample]) -> std::collections::BTreeMap<String, usize> {
    let mut count = std::collections::BTreeMap::new();
    for pod in samples.iter().filter_map(Sample::pod) {
        *count.entry(pod.to_owned()).or_default() += 1;
    }
    count
}

/// Fails, showing every sample, unless all have this outcome and arrived unchanged.
pub fn expect_all(samples: &[Sample], outcome: Outcome) -> Result<()> {
    if samples.is_empty() {
        bail!("no samples");
    }
    match samples.iter().filter(|sample| sample.outcome != outcome || !sample.intact).count() {
        0 => Ok(()),
        wrong => bail!("{wrong} of {} samples are not {outcome:?} and intact: {samples:#?}", samples.len()),
    }
}

/// Fails unless every sample saw its answers come from the address it asked.
pub fn expect_replies_from(samples: &[Sample], service: SocketAddr) -> Result<()> {
    match samples.iter().find(|sample| sample.reply_from != Some(service)) {
        None => Ok(()),
        Some(sample) => bail!("an answer did not come from {service}: {sample:#?}"),
    }
}
