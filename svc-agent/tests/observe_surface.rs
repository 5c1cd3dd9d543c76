//! kube-proxy's public surface against a record of it: each of its series is exported with the same type, labels and buckets, or
//! docs/kube-proxy-differences.md names it; nothing under its prefixes is ours alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod observe_support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use http_body_util::BodyExt;
use observe_support::cluster;
use svc_agent::model::IpFamily;
use svc_agent::observe::{Scope, Settings, Shared, SourceState, health_router, metrics_router};
use svc_agent::source::{ApiRequests, SourceStats, kubernetes};
use svc_testbed::apiserver::ApiServer;
use tower::ServiceExt;

const RECORD: &str = include_str!("data/kube-proxy-1.36-metrics.txt");
const DIFFERENCES: &str = include_str!("../../docs/kube-proxy-differences.md");

const DASHBOARD: &str = include_str!("../../deploy/grafana/svc-agent.json");
const OURS: &str = "svc_agent_";
const PREFIXES: [&str; 5] = [OURS, "kubeproxy_", "kubernetes_", "process_", "rest_client_"];

#[derive(PartialEq, Eq, Debug)]
struct Series {
    kind: String,
    labels: BTreeSet<String>,
}

fn recorded() -> BTreeMap<String, Series> {
    let lines = RECORD.lines().filter(|line| !line.starts_with('#'));
    let series = lines.map(|line| {
        let mut words = line.split(' ').map(str::to_owned);
        let (name, kind) = (words.next().unwrap(), words.next().unwrap());
        (name, Series { kind, labels: words.collect() })
    });
    series.collect()
}

/// What a page of metrics holds: types as declared, labels as they stand at the samples.
fn exported(page: &str) -> BTreeMap<String, Series> {
    let mut found = BTreeMap::<String, Series>::new();
    for line in page.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let series = Series { kind: kind.to_owned(), labels: BTreeSet::new() };
            found.insert(name.to_owned(), series);
        } else if !line.starts_with('#') {
            let sample = line.split([' ', '{']).next().unwrap();
            let suffixes = ["_bucket", "_sum", "_count"];
            let of_histogram = suffixes.iter().filter_map(|suffix| sample.strip_suffix(suffix));
            let name = of_histogram.into_iter().chain([sample]).find(|name| found.contains_key(*name)).unwrap();
            let labels =
                line.split_once('{').and_then(|(_, rest)| rest.split_once("} ")).map_or("", |(labels, _)| labels);
            let names = labels.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned());
            found.get_mut(name).unwrap().labels.extend(names.filter(|name| name != "le"));
        }
    }
    found
}

async fn get(router: axum::Router, path: &str) -> String {
    let request = http::Request::get(path).body(Body::empty()).unwrap();
    let body = router.oneshot(request).await.unwrap().into_body();
    String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// A page on which everything has happened at least once.
async fn page() -> String {
    let shared = Shared::new(Settings::default());
    shared.attach_maps(Box::new(cluster(10_000)));
    shared.attach_source(|| SourceState::all(&SourceStats::default()));
    let requests = ApiRequests::default();
    shared.attach_requests(requests.clone());
    ask_an_api_server(&requests).await;
    shared.set_interfaces(1, 1);
    shared.publish_failed("SLOTS");
    shared.change_visible(Instant::now());
    shared.update_queued();
    shared.update_tried(Scope::Full, Duration::from_millis(3));
    shared.update_tried(Scope::Partial, Duration::from_millis(1));
    shared.update_done();
    for family in [IpFamily::V4, IpFamily::V6] {
        shared.trigger_visible(family, SystemTime::now() - Duration::from_secs(1));
    }
    for path in ["/healthz", "/livez", "/readyz"] {
        get(health_router(Arc::clone(&shared)), path).await;
    }
    get(metrics_router(shared), "/metrics").await
}

async fn ask_an_api_server(requests: &ApiRequests) {
    let server = ApiServer::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = directory.path().join("kubeconfig");
    std::fs::write(&kubeconfig, server.kubeconfig()).unwrap();
    let client = kubernetes::connect(Some(&kubeconfig), requests).await.unwrap();
    let ask = |path: &str| client.request_text(http::Request::get(path).body(Vec::new()).unwrap());
    ask("/api/v1/services").await.unwrap();
    ask("/api/v1/nothing").await.unwrap_err();
}

#[tokio::test]
async fn every_series_of_kube_proxy_is_there_or_explained() {
    let page = page().await;
    let exported = exported(&page);
    for (name, series) in recorded() {
        match exported.get(&name) {
            Some(ours) => assert_eq!(*ours, series, "{name}"),
            None => assert!(DIFFERENCES.contains(&format!("`{name}`")), "{name} is neither exported nor explained"),
        }
    }
    let under_its_prefixes =
        |name: &&String| !name.starts_with(OURS) && PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    for name in exported.keys().filter(under_its_prefixes) {
        assert!(recorded().contains_key(name), "{name} is not a series of kube-proxy");
    }
}

#[tokio::test]
async fn requests_to_the_api_server_are_counted_as_client_go_does() {
    let page = page().await;
    let sample = |start: &str, labels: &[&str]| {
        let mut lines = page.lines().filter(|line| line.starts_with(start));
        lines.any(|line| labels.iter().all(|label| line.contains(label)))
    };
    assert!(sample("rest_client_requests_total{", &["code=\"200\"", "method=\"GET\"", "host=\"127.0.0.1:"]), "{page}");
    assert!(sample("rest_client_requests_total{", &["code=\"404\""]), "{page}");
    let buckets = "rest_client_request_duration_seconds_bucket{";
    for bound in ["0.005", "0.025", "15", "60", "+Inf"] {
        assert!(sample(buckets, &[&format!("le=\"{bound}\""), "verb=\"GET\""]), "{bound}: {page}");
    }
}

#[tokio::test]
async fn the_buckets_are_those_of_kube_proxy() {
    let page = page().await;
    let bounds = |name: &str| -> Vec<f64> {
        let start = format!("{name}_bucket{{le=\"");
        let lines = page.lines().filter(|line| line.contains("ip_family=\"IPv4\""));
        let bounds = lines.filter_map(|line| line.strip_prefix(&start)?.split('"').next()?.parse().ok());
        bounds.filter(|bound: &f64| bound.is_finite()).collect()
    };
    let sync: Vec<f64> = (0..15).map(|power| 0.001 * f64::from(1 << power)).collect();
    for scope in ["sync", "sync_full", "sync_partial"] {
        assert_eq!(bounds(&format!("kubeproxy_{scope}_proxy_rules_duration_seconds")), sync, "{scope}");
    }
    let programming = [0.0, 0.25, 0.5].into_iter().chain((1..60).map(f64::from));
    let programming =
        programming.chain((60..120).step_by(5).map(f64::from)).chain((120..=300).step_by(30).map(f64::from));
    assert_eq!(bounds("kubeproxy_network_programming_duration_seconds"), programming.collect::<Vec<_>>());
}

#[tokio::test]
async fn the_dashboard_asks_for_series_that_exist() {
    let exported = exported(&page().await);
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            let words = expression.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
            for name in words.filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix))) {
                let family = ["_bucket", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
                assert!(exported.contains_key(family), "{}: {name}", panel["title"]);
                asked += 1;
            }
        }
    }
    assert!(asked >= dashboard["panels"].as_array().unwrap().len(), "the names are not recognized");
}

/// The names a body of /healthz and /livez has, in kube-proxy's order.
#[tokio::test]
async fn health_bodies_have_the_fields_of_kube_proxy() {
    let shared = Shared::new(Settings::default());
    let body = |path: &'static str| get(health_router(Arc::clone(&shared)), path);
    let shape = |body: String| {
        let without_values =
            body.split('"').enumerate().filter(|(index, _)| index % 2 == 1).map(|(_, text)| text.to_owned());
        without_values.filter(|text| !text.ends_with('Z')).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(shape(body("/healthz").await), "lastUpdated currentTime nodeEligible healthy");
    assert_eq!(shape(body("/livez").await), "lastUpdated currentTime healthy");
    shared.update_done();
    let status = "status IPv4 lastUpdated healthy IPv6 lastUpdated healthy";
    assert_eq!(shape(body("/healthz").await), format!("lastUpdated currentTime nodeEligible healthy {status}"));
    assert_eq!(shape(body("/livez").await), format!("lastUpdated currentTime healthy {status}"));
}
