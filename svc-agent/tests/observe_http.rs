//! The HTTP surface on loopback, port chosen by the kernel: kube-proxy's paths, codes, headers and metric names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod observe_support;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use observe_support::cluster;
use svc_agent::model::{IpFamily, Node};
use svc_agent::observe::{Endpoint, Scope, Settings, Shared, SourceState, serve};
use svc_agent::source::SourceStats;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

struct Answer {
    code: u16,
    headers: HeaderMap,
    body: String,
}

async fn ask(address: SocketAddr, path: &str, accept: &str) -> Answer {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "test").header("accept", accept);
    let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    let (parts, body) = answer.into_parts();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    Answer { code: parts.status.as_u16(), headers: parts.headers, body }
}

async fn bound(shared: &Shared, endpoint: Endpoint) -> SocketAddr {
    let mut address = shared.address(endpoint);
    let found = tokio::time::timeout(Duration::from_secs(30), address.wait_for(Option::is_some)).await;
    found.expect("the server did not start").unwrap().unwrap()
}

async fn start(settings: Settings) -> (Arc<Shared>, SocketAddr, SocketAddr) {
    let shared = Shared::new(settings);
    tokio::spawn(serve(shared.clone(), Some(ANY), Some(ANY)));
    let (metrics, health) = (bound(&shared, Endpoint::Metrics).await, bound(&shared, Endpoint::Health).await);
    (shared, metrics, health)
}

#[tokio::test]
async fn probes_follow_updates_and_the_node() {
    // Every queued update is late at once.
    let (shared, metrics, health) = start(Settings { health_timeout: Duration::ZERO, ..Default::default() }).await;
    // Starting: healthy, as kube-proxy is, but nothing is programmed yet.
    shared.update_queued();
    assert_eq!(ask(health, "/healthz", "*/*").await.code, 200);
    assert_eq!(ask(health, "/livez", "*/*").await.code, 200);
    assert_eq!(ask(health, "/readyz", "*/*").await.code, 503);

    shared.update_done();
    assert_eq!(ask(health, "/readyz", "*/*").await.code, 200);
    let answer = ask(health, "/healthz", "*/*").await;
    assert_eq!(answer.code, 200);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body["nodeEligible"], true);
    assert_eq!(body["healthy"], true);
    assert_eq!(body["lastUpdated"], body["currentTime"]);
    assert_eq!(body["status"]["IPv4"]["healthy"], true);

    shared.node_changed(&Node { leaving: true, ..Default::default() });
    assert_eq!(ask(health, "/healthz", "*/*").await.code, 503);
    let answer = ask(health, "/livez", "*/*").await;
    assert_eq!(answer.code, 200);
    assert!(!answer.body.contains("nodeEligible"));
    assert_eq!(ask(health, "/readyz", "*/*").await.code, 200);

    shared.node_changed(&Node::default());
    shared.update_queued();
    assert_eq!(ask(health, "/healthz", "*/*").await.code, 503);
    assert_eq!(ask(health, "/livez", "*/*").await.code, 503);

    let text = ask(metrics, "/metrics", "*/*").await.body;
    assert!(text.contains("kubeproxy_proxy_healthz_total{code=\"503\"} 2\n"), "{text}");
    assert!(text.contains("kubeproxy_proxy_livez_total{code=\"200\"} 2\n"), "{text}");
}

#[tokio::test]
async fn the_metrics_address_answers_as_kube_proxys() {
    let (_, metrics, _) = start(Settings::default()).await;
    assert_eq!(ask(metrics, "/proxyMode", "*/*").await.body, "ebpf");
    assert_eq!(ask(metrics, "/healthz", "*/*").await.body, "ok");
    assert_eq!(ask(metrics, "/healthz?verbose", "*/*").await.body, "[+]ping ok\nhealthz check passed\n");
    assert_eq!(ask(metrics, "/healthz/ping", "*/*").await.body, "ok");
    assert_eq!(ask(metrics, "/other", "*/*").await.code, 404);
    let old = ask(metrics, "/metrics", "text/plain").await;
    assert_eq!(old.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let new = ask(metrics, "/metrics", "application/openmetrics-text;version=1.0.0,*/*;q=0.1").await;
    assert_eq!(new.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(new.body.ends_with("# EOF\n"));
}

fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
}

#[tokio::test]
async fn metrics_tell_what_happened_and_what_there_is() {
    let (shared, metrics, _) = start(Settings { service_metrics: true, ..Default::default() }).await;
    shared.attach_maps(Box::new(cluster(10_000)));
    shared.attach_source(|| {
        vec![SourceState {
            kind: "Service",
            applied: 7,
            connected: true,
            unusable: BTreeMap::from([("bad_address", 2)]),
            ..Default::default()
        }]
    });
    shared.source_synced();
    shared.source_event();
    shared.service_changed();
    shared.endpoints_changed();
    shared.update_queued();
    let text = ask(metrics, "/metrics", "*/*").await.body;
    assert_eq!(value(&text, "kubeproxy_sync_proxy_rules_service_changes_pending"), 1.0);

    shared.update_tried(Scope::Full, Duration::from_millis(3));
    shared.update_done();
    shared.change_visible(Instant::now());
    shared.trigger_visible(IpFamily::V4, SystemTime::now() - Duration::from_secs(1));
    shared.set_interfaces(5, 1);
    shared.publish_failed("SLOTS");
    shared.swept("FLOWS_V6", 0);
    shared.swept("FLOWS_V4", 2);
    shared.swept("FLOWS_V4", 3);
    let text = ask(metrics, "/metrics", "*/*").await.body;
    for (series, expected) in [
        ("kubeproxy_sync_proxy_rules_service_changes_pending", 0.0),
        ("kubeproxy_sync_proxy_rules_service_changes_total", 1.0),
        ("kubeproxy_sync_proxy_rules_endpoint_changes_total", 1.0),
        ("kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}", 1.0),
        ("kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.004\",ip_family=\"IPv6\"}", 1.0),
        ("kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"}", 1.0),
        ("kubeproxy_network_programming_duration_seconds_bucket{le=\"0.5\",ip_family=\"IPv4\"}", 0.0),
        ("kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"}", 1.0),
        ("kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"internal\"}", 1.0),
        ("svc_agent_programming_duration_seconds_count", 1.0),
        ("svc_agent_interfaces{state=\"attached\"}", 5.0),
        ("svc_agent_interfaces{state=\"failed\"}", 1.0),
        ("svc_agent_publish_errors_total{map=\"SLOTS\"}", 1.0),
        ("svc_agent_swept_total{map=\"FLOWS_V4\"}", 5.0),
        ("svc_agent_swept_total{map=\"FLOWS_V6\"}", 0.0),
        ("svc_agent_source_synced", 1.0),
        ("svc_agent_source_connected{kind=\"Service\"}", 1.0),
        ("svc_agent_source_applied_total{kind=\"Service\"}", 7.0),
        ("svc_agent_source_unusable_total{kind=\"Service\",reason=\"bad_address\"}", 2.0),
        ("svc_agent_drops_total{reason=\"no_endpoint\"}", 4.0),
        ("svc_agent_drops_total{reason=\"flow_table_full\"}", 0.0),
        ("svc_agent_services{ip_family=\"IPv4\",verdict=\"forward\"}", 2.0),
        ("svc_agent_services{ip_family=\"IPv6\",verdict=\"drop\"}", 0.0),
        ("svc_agent_map_entries{map=\"BACKENDS\"}", 6.0),
        ("svc_agent_map_entries{map=\"SLOTS\"}", 6.0),
        ("svc_agent_map_entries{map=\"FRONTENDS_V4\"}", 6.0),
        ("svc_agent_map_entries{map=\"FLOWS_V4\"}", 6.0),
        ("svc_agent_map_capacity{map=\"SLOTS\"}", 128.0),
        (
            "svc_agent_service_connections_total{namespace=\"default\",service=\"nginx-service\",port=\"\",path=\"tc\"}",
            12.0,
        ),
        ("svc_agent_service_rejected_total{namespace=\"default\",service=\"nginx-service\",port=\"\"}", 4.0),
    ] {
        assert_eq!(value(&text, series), expected, "{series}");
    }
    assert!(value(&text, "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}") > 1e9);
    assert!(value(&text, "svc_agent_source_last_event_timestamp_seconds") > 1e9);
    assert!(value(&text, "process_resident_memory_bytes") > 1e5);
    assert!(text.contains("svc_agent_build_info{version=\""));
}

#[test]
fn a_source_has_a_state_for_each_kind() {
    let states = SourceState::all(&SourceStats::default());
    let kinds: Vec<_> = states.iter().map(|state| (state.kind, state.connected)).collect();
    assert_eq!(kinds, [("Service", false), ("EndpointSlice", false), ("Node", false)]);
}

#[tokio::test]
async fn services_have_no_series_of_their_own_unless_asked_for() {
    let (shared, metrics, _) = start(Settings::default()).await;
    shared.attach_maps(Box::new(cluster(10_000)));
    let text = ask(metrics, "/metrics", "*/*").await.body;
    assert!(!text.contains("svc_agent_service_"), "{text}");
}

#[tokio::test]
async fn a_taken_address_is_counted_and_tried_again() {
    let taken = tokio::net::TcpListener::bind(ANY).await.unwrap();
    let address = taken.local_addr().unwrap();
    let settings = Settings { listen_again_after: Duration::from_millis(20), ..Default::default() };
    let shared = Shared::new(settings);
    tokio::spawn(serve(shared.clone(), Some(ANY), Some(address)));
    let metrics = bound(&shared, Endpoint::Metrics).await;
    let text = ask(metrics, "/metrics", "*/*").await.body;
    assert!(value(&text, "svc_agent_http_bind_errors_total{server=\"healthz\"}") >= 1.0);
    drop(taken);
    let health = bound(&shared, Endpoint::Health).await;
    assert_eq!(health, address);
    assert_eq!(ask(health, "/livez", "*/*").await.code, 200);
}
