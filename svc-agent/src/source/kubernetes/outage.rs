//! What to make of a failed request: how long to wait, what to tell the operator (once per change of state), and whether
//! the watch may have missed something.

use std::error::Error as _;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use kube::runtime::watcher;
use tracing::{debug, error, info, warn};

use crate::source::Kind;

/// After so long without a failure the next one is the first again; the same as client-go's.
const FORGET_AFTER: Duration = Duration::from_secs(120);

/// The way in which the API server fails us; a change of it is worth a line in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Problem {
    Forbidden,
    Unauthorized,
    /// The server answers, but not with what we asked for.
    Refused,
    /// Normal in the life of a watch.
    Expired,
    Unreachable,
    NoAnswer,
}

#[derive(Debug)]
pub(super) struct Outage {
    kind: Kind,
    min_backoff: Duration,
    max_backoff: Duration,
    next_backoff: Duration,
    last_failure: Option<Instant>,
    problem: Option<Problem>,
    failures: u64,
}

impl Outage {
    pub(super) fn new(kind: Kind, min_backoff: Duration, max_backoff: Duration) -> Self {
        Self {
            kind,
            min_backoff,
            max_backoff,
            next_backoff: min_backoff,
            last_failure: None,
            problem: None,
            failures: 0,
        }
    }

    pub(super) fn is_forbidden(&self) -> bool {
        self.problem == Some(Problem::Forbidden)
    }

    /// The server has told us something useful.
    pub(super) fn note_contact(&mut self) {
        match self.problem.take() {
            None | Some(Problem::Expired) => {}
            Some(_) => info!(failures = self.failures, "the API server answers again"),
        }
        self.failures = 0;
    }

    /// Returns how long to wait before the next try.
    pub(super) fn note_timeout(&mut self, after: Duration) -> Duration {
        if self.enter(Problem::NoAnswer) {
            warn!(
                ?after,
                "the API server does not answer the list, what is programmed stays in force: check its load and the network"
            );
        }
        self.next_pause()
    }

    /// Returns how long to wait before the next try.
    pub(super) fn note_error(&mut self, error: &watcher::Error) -> Duration {
        let problem = classify(error);
        let entered = self.enter(problem);
        let problem_text = describe(error);
        if !entered {
            debug!(problem = problem_text, "the API server still fails");
            return self.next_pause();
        }
        match problem {
            Problem::Expired => debug!("the watch expired, listing again"),
            Problem::Forbidden => error!(
                problem = problem_text,
                "not allowed to {verb} {resource}: give the ClusterRole of svc-agent's service account the verbs list and \
                 watch on {resource} and check its ClusterRoleBinding (deploy/)",
                verb = verb(error),
                resource = self.kind.resource(),
            ),
            Problem::Unauthorized => error!(
                problem = problem_text,
                "the API server does not accept our credentials: check the service account's token or the kubeconfig's user"
            ),
            Problem::Refused => warn!(
                problem = problem_text,
                "the API server fails to {verb} {resource}, what is programmed stays in force, trying again",
                verb = verb(error),
                resource = self.kind.resource(),
            ),
            Problem::Unreachable | Problem::NoAnswer => warn!(
                problem = problem_text,
                "the API server cannot be reached, what is programmed stays in force, trying again; on a node without \
                 kube-proxy KUBERNETES_SERVICE_HOST must be the server's own address, not its ClusterIP"
            ),
        }
        self.next_pause()
    }

    fn enter(&mut self, problem: Problem) -> bool {
        self.failures += 1;
        self.problem.replace(problem) != Some(problem)
    }

    fn next_pause(&mut self) -> Duration {
        let now = Instant::now();
        if self.last_failure.is_none_or(|last| now.duration_since(last) > FORGET_AFTER) {
            self.next_backoff = self.min_backoff;
        }
        self.last_failure = Some(now);
        let pause = self.next_backoff;
        self.next_backoff = (pause * 2).min(self.max_backoff);
        // Up to half as long again, so that the nodes of a cluster do not come back all at once.
        let spread = u32::from(RandomState::new().hash_one(now) as u8);
        pause + pause * spread / 512
    }
}

/// Whether events may have been lost, so that resuming the watch is not enough.
pub(super) fn must_list_again(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(_) | watcher::Error::NoResourceVersion => true,
        // Some servers say 410 with the HTTP status; the watcher would ask for the same expired version for ever.
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
        watcher::Error::WatchStartFailed(_) | watcher::Error::WatchFailed(kube::Error::ReadEvents(_)) => false,
        // An event that cannot be read is an event that is lost.
        watcher::Error::WatchFailed(_) | watcher::Error::WatchError(_) => true,
    }
}

fn classify(error: &watcher::Error) -> Problem {
    match status_code(error) {
        Some(403) => Problem::Forbidden,
        Some(401) => Problem::Unauthorized,
        Some(410) => Problem::Expired,
        Some(_) => Problem::Refused,
        None => match error {
            watcher::Error::WatchFailed(kube::Error::SerdeError(_))
            | watcher::Error::InitialListFailed(kube::Error::SerdeError(_))
            | watcher::Error::NoResourceVersion => Problem::Refused,
            _ => Problem::Unreachable,
        },
    }
}

fn status_code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::WatchError(status)
        | watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}

fn verb(error: &watcher::Error) -> &'static str {
    match error {
        watcher::Error::InitialListFailed(_) => "list",
        _ => "watch",
    }
}

/// The whole chain: the outermost message alone says little about a failed connection.
fn describe(error: &watcher::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
