//! Counts requests to the API server as client-go does. A layer around the client: it changes nothing, and the rest of the
//! source does not know of it. Read by `observe`.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Request, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use tower::{Layer, Service};

/// client-go's.
const BUCKETS: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];
/// What client-go says where there was no answer.
const NO_ANSWER: &str = "<error>";

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct Outcome {
    code: String,
    host: String,
    method: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct Endpoint {
    host: String,
    verb: String,
}

/// Cheap to clone; all clones count into the same series.
#[derive(Clone, Debug)]
pub struct ApiRequests {
    pub counts: Family<Outcome, Counter>,
    /// Until the answer begins. Without watches, which last as long as they like.
    pub durations: Family<Endpoint, Histogram, fn() -> Histogram>,
}

impl Default for ApiRequests {
    fn default() -> Self {
        Self { counts: Family::default(), durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)) }
    }
}

impl ApiRequests {
    /// Requests pass before they get their host, so it must be told.
    pub(super) fn layer(&self, host: String) -> CountLayer {
        CountLayer { requests: self.clone(), host }
    }

    fn answered(&self, host: &str, method: &str, code: &str) {
        let outcome = Outcome { code: code.to_owned(), host: host.to_owned(), method: method.to_owned() };
        self.counts.get_or_create(&outcome).inc();
    }

    fn took(&self, host: &str, verb: &str, start: Instant) {
        let endpoint = Endpoint { host: host.to_owned(), verb: verb.to_owned() };
        self.durations.get_or_create(&endpoint).observe(start.elapsed().as_secs_f64());
    }
}

pub(super) struct CountLayer {
    requests: ApiRequests,
    host: String,
}

impl<S> Layer<S> for CountLayer {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, requests: self.requests.clone(), host: self.host.clone() }
    }
}

pub(super) struct Counted<S> {
    inner: S,
    requests: ApiRequests,
    host: String,
}

impl<S, A, B> Service<Request<A>> for Counted<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let (requests, host) = (self.requests.clone(), self.host.clone());
        let method = request.method().as_str().to_owned();
        let mut parameters = request.uri().query().unwrap_or_default().split('&');
        let is_watch = parameters.any(|parameter| parameter == "watch=true");
        let start = Instant::now();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            match &answer {
                Ok(response) => requests.answered(&host, &method, response.status().as_str()),
                Err(_) => requests.answered(&host, &method, NO_ANSWER),
            }
            if !is_watch {
                requests.took(&host, &method, start);
            }
            answer
        })
    }
}
