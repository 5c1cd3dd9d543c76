//! kube-proxy's HTTP surface: `/metrics`, `/proxyMode` and `/healthz` for people on one address, `/healthz` and `/livez`
//! for probes and load balancers on another, there also our own `/readyz`. A server that cannot listen is tried again and never stops the datapath.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::exposition::Exposition;
use super::health::{Moment, Probe};
use super::shared::{Endpoint, Shared};

/// What `/proxyMode` answers, where kube-proxy names its backend.
const PROXY_MODE: &str = "ebpf";

/// Serves until it is dropped; `None` switches a server off.
pub async fn serve(shared: Arc<Shared>, metrics: Option<SocketAddr>, healthz: Option<SocketAddr>) {
    tokio::join!(
        listen(&shared, Endpoint::Metrics, metrics, metrics_router(shared.clone())),
        listen(&shared, Endpoint::Health, healthz, health_router(shared.clone())),
    );
}

async fn listen(shared: &Shared, endpoint: Endpoint, address: Option<SocketAddr>, router: Router) {
    let Some(address) = address else { return };
    let server = endpoint.label();
    loop {
        let error = match TcpListener::bind(address).await {
            Ok(listener) => {
                let bound = listener.local_addr().unwrap_or(address);
                tracing::info!(server, address = %bound, "listening for HTTP requests");
                shared.bound(endpoint).send_replace(Some(bound));
                let ended = axum::serve(listener, router.clone()).await;
                shared.bound(endpoint).send_replace(None);
                ended.err()
            }
            Err(error) => {
                shared.metrics.bind_failed(endpoint);
                Some(error)
            }
        };
        let error = error.map_or_else(|| "the server ended".to_owned(), |error| error.to_string());
        tracing::error!(
            server,
            %address,
            error,
            retry_after_seconds = shared.settings.listen_again_after.as_secs(),
            "cannot listen for HTTP requests: free the address or set another one; translation goes on without"
        );
        tokio::time::sleep(shared.settings.listen_again_after).await;
    }
}

pub fn metrics_router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/metrics", get(answer_metrics))
        .route("/proxyMode", get(|| async { plain(PROXY_MODE) }))
        .route("/healthz", get(answer_ping))
        .route("/healthz/ping", get(|| async { plain("ok") }))
        .with_state(shared)
}

pub fn health_router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/healthz", get(answer_healthz))
        .route("/livez", get(answer_livez))
        .route("/readyz", get(answer_readyz))
        .with_state(shared)
}

/// Beside the metrics a health check says only that somebody answers.
async fn answer_ping(RawQuery(query): RawQuery) -> impl IntoResponse {
    let mut parameters = query.as_deref().unwrap_or_default().split('&');
    let verbose = parameters.any(|parameter| parameter.split('=').next() == Some("verbose"));
    plain(if verbose { "[+]ping ok\nhealthz check passed\n" } else { "ok" })
}

fn plain(text: &'static str) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; charset=utf-8"), (X_CONTENT_TYPE_OPTIONS, "nosniff")], text)
}

async fn answer_metrics(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let format = Exposition::negotiate(headers.get(ACCEPT).and_then(|value| value.to_str().ok()));
    // Collectors read maps: system calls that take milliseconds on a large node.
    let encoded = tokio::task::spawn_blocking(move || format.encode(&shared.registry)).await;
    match encoded {
        Ok(Ok(body)) => ([(CONTENT_TYPE, format.content_type())], body).into_response(),
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn answer_healthz(State(shared): State<Arc<Shared>>) -> Response {
    let (code, response) = probe(&shared, Probe::Healthz);
    shared.metrics.healthz_answered(code.as_u16());
    response
}

async fn answer_livez(State(shared): State<Arc<Shared>>) -> Response {
    let (code, response) = probe(&shared, Probe::Livez);
    shared.metrics.livez_answered(code.as_u16());
    response
}

async fn answer_readyz(State(shared): State<Arc<Shared>>) -> Response {
    probe(&shared, Probe::Readyz).1
}

fn probe(shared: &Shared, probe: Probe) -> (StatusCode, Response) {
    let (success, report) = shared.health.report(probe, Moment::now());
    let code = if success { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, (code, [(X_CONTENT_TYPE_OPTIONS, "nosniff")], axum::Json(report)).into_response())
}
