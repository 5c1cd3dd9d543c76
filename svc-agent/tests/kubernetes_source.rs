//! The Kubernetes source against an API server that lists, watches, expires and breaks: whatever happens, the index ends
//! up as a fresh list would have it, and nothing that existed all the time is ever missing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod follower;
mod real;

use std::sync::{Arc, Mutex};

use follower::{Follower, NODE, service, slice, zone_node};
use serde_json::{Value, json};
use svc_agent::model::ObjectName;
use svc_agent::source::{ApiRequests, Kind, kubernetes};
use svc_testbed::apiserver::{ApiServer, Fault, Resource, Verb};

/// A server with a steady service and one that is going to change, and somebody who follows it.
async fn follow_two_services() -> (ApiServer, Follower) {
    let server = ApiServer::start().await.unwrap();
    server.apply(zone_node("zone-a"));
    server.apply(service("steady", "10.96.0.1"));
    server.apply(slice("steady-1", "steady", &["10.0.0.1"]));
    server.apply(service("other", "10.96.0.2"));
    server.apply(slice("other-1", "other", &["10.0.0.2"]));
    let mut follower = Follower::start(&server).await;
    follower.settle(&server).await;
    follower.expect_always("steady");
    (server, follower)
}

/// One change of every sort; `round` makes each call different.
fn change_everything(server: &ApiServer, round: u32) {
    server.apply(service("other", &format!("10.96.1.{round}")));
    server.apply(service(&format!("new-{round}"), &format!("10.96.2.{round}")));
    server.delete(Resource::Services, "default", &format!("new-{}", round - 1));
    server.apply(slice("other-1", "other", &[&format!("10.0.1.{round}")]));
    server.apply(slice(&format!("new-{round}"), "steady", &[&format!("10.0.2.{round}")]));
    server.delete(Resource::EndpointSlices, "default", &format!("new-{}", round - 1));
    server.apply(zone_node(&format!("zone-{round}")));
}

#[tokio::test]
async fn follows_changes() {
    let (server, mut follower) = follow_two_services().await;
    for round in 1..5 {
        change_everything(&server, round);
        follower.settle(&server).await;
    }
    server.apply(slice("other-1", "steady", &["10.0.0.2"]));
    server.delete(Resource::Services, "default", "other");
    server.delete(Resource::Nodes, "", NODE);
    follower.settle(&server).await;
    for resource in [Resource::Services, Resource::EndpointSlices, Resource::Nodes] {
        assert_eq!(server.count(resource, Verb::List), 1, "{resource:?} were listed again without need");
    }
}

#[tokio::test]
async fn asks_only_for_what_it_needs() {
    let (server, _follower) = follow_two_services().await;
    let requests = server.requests();
    for (resource, selector, value) in [
        (Resource::Services, "labelSelector", "!service.kubernetes.io/service-proxy-name"),
        (Resource::EndpointSlices, "labelSelector", "!service.kubernetes.io/headless"),
        (Resource::Nodes, "fieldSelector", "metadata.name=n1"),
    ] {
        let of_resource: Vec<_> = requests.iter().filter(|request| request.resource == resource).collect();
        assert!(!of_resource.is_empty());
        for request in of_resource {
            assert_eq!(request.query.get(selector).map(String::as_str), Some(value), "{request:?}");
            let limit = request.query.get("limit").map(String::as_str);
            assert_eq!(limit, (request.verb == Verb::List).then_some("500"), "{request:?}");
        }
    }
}

#[tokio::test]
async fn objects_come_into_view_and_go_out_of_it() {
    let (server, mut follower) = follow_two_services().await;
    let label = |mut object: Value, key: &str| {
        object["metadata"]["labels"][key] = "x".into();
        object
    };
    let other = || service("other", "10.96.0.2");
    let mut headless = other();
    headless["spec"]["clusterIP"] = "None".into();
    let mut external = other();
    external["spec"] = json!({"type": "ExternalName", "externalName": "example.com"});
    for hidden in [label(other(), "service.kubernetes.io/service-proxy-name"), headless, external] {
        server.apply(hidden);
        follower.settle(&server).await;
        assert!(!follower.has_service("other"));
        server.apply(other());
        follower.settle(&server).await;
        assert!(follower.has_service("other"));
    }
    let other_slice = || slice("other-1", "other", &["10.0.0.2"]);
    let mut fqdn = other_slice();
    fqdn["addressType"] = "FQDN".into();
    let mut unowned = other_slice();
    unowned["metadata"]["labels"] = json!({});
    for hidden in [label(other_slice(), "service.kubernetes.io/headless"), fqdn, unowned] {
        server.apply(hidden);
        follower.settle(&server).await;
        assert_eq!(follower.index.stats().slices, 1);
        server.apply(other_slice());
        follower.settle(&server).await;
        assert_eq!(follower.index.stats().slices, 2);
    }
    let ignored = follower.stats.kind(Kind::Service).unusable();
    assert_eq!((ignored["no_cluster_ip"], ignored["external_name"]), (1, 1));
}

#[tokio::test]
async fn an_object_that_cannot_be_understood_keeps_its_last_good_version() {
    let (server, mut follower) = follow_two_services().await;
    let name = ObjectName { namespace: "default".into(), name: "other".into() };
    let before = follower.index.service(&name).cloned();
    let mut broken = service("other", "10.96.0.2");
    broken["spec"]["clusterIP"] = "10.96.0.999".into();
    broken["spec"]["clusterIPs"] = json!(["10.96.0.999"]);
    server.apply(broken.clone());
    let mut partly = slice("steady-2", "steady", &["10.0.0.8", "nonsense", "fd00::1"]);
    partly["ports"][0]["port"] = 80_000.into();
    server.apply(partly);
    follower.until(|follower| follower.stats.kind(Kind::EndpointSlice).unusable().contains_key("port")).await;
    follower.until(|follower| follower.stats.kind(Kind::Service).unusable().contains_key("address")).await;
    assert_eq!(follower.index.service(&name).cloned(), before);
    let rejected = follower.stats.kind(Kind::EndpointSlice).unusable();
    assert_eq!((rejected["address"], rejected["family"], rejected["port"]), (1, 1, 1));
    // Nor does a new list remove it.
    let lists = follower.stats.kind(Kind::Service).lists();
    server.expire();
    server.close_watches();
    follower.until(|follower| follower.stats.kind(Kind::Service).lists() > lists).await;
    assert_eq!(follower.index.service(&name).cloned(), before);
    server.apply(service("other", "10.96.0.3"));
    server.delete(Resource::EndpointSlices, "default", "steady-2");
    follower.settle(&server).await;
}

#[tokio::test]
async fn long_lists_come_in_pages_and_survive_the_loss_of_one() {
    let (server, mut follower) = follow_two_services().await;
    let address = |number: u32| format!("10.97.{}.{}", number / 200, number % 200 + 1);
    for number in 0..1_201 {
        server.apply(service(&format!("many-{number}"), &address(number)));
    }
    follower.settle(&server).await;
    server.fail(Resource::Services, Verb::List, Fault::ExpiredPage, 2);
    let before = server.count(Resource::Services, Verb::List);
    for number in (0..1_201).step_by(2) {
        server.delete(Resource::Services, "default", &format!("many-{number}"));
    }
    server.expire();
    server.close_watches();
    follower.settle(&server).await;
    follower.until(|follower| follower.stats.kind(Kind::Service).lists() >= 2).await;
    // Two tries that break off at their second page, then one with both.
    assert_eq!(server.count(Resource::Services, Verb::List) - before, 6);
    assert_eq!(follower.index.stats().services, 602);
}

#[tokio::test]
async fn nothing_is_affected_until_all_lists_are_complete() {
    let server = ApiServer::start().await.unwrap();
    server.apply(service("web", "10.96.0.1"));
    server.apply(slice("web-1", "web", &["10.0.0.1"]));
    server.fail(Resource::EndpointSlices, Verb::List, Fault::Status(500), usize::MAX);
    let mut follower = Follower::start(&server).await;
    follower.until(|follower| follower.has_service("web")).await;
    follower.until(|follower| follower.stats.kind(Kind::EndpointSlice).errors() > 3).await;
    assert!(!follower.index.is_synced());
    assert_eq!(follower.index.take_changes().services, []);
    server.heal();
    follower.settle(&server).await;
    assert!(follower.index.is_synced());
    assert_eq!(follower.index.take_changes().services.len(), 1);
}

/// The disturbance of every resource's watch, while objects change.
async fn survive(disturb: impl Fn(&ApiServer, Resource)) {
    let (server, mut follower) = follow_two_services().await;
    for round in 1..3 {
        for resource in [Resource::Services, Resource::EndpointSlices, Resource::Nodes] {
            disturb(&server, resource);
        }
        change_everything(&server, 2 * round - 1);
        server.close_watches();
        change_everything(&server, 2 * round);
        follower.settle(&server).await;
        server.heal();
    }
    // And it still follows.
    change_everything(&server, 5);
    follower.settle(&server).await;
    assert!(follower.index.is_synced());
}

#[tokio::test]
async fn watches_that_close_are_resumed_without_a_list() {
    let (server, mut follower) = follow_two_services().await;
    for round in 1..6 {
        change_everything(&server, round);
        server.close_watches();
        follower.settle(&server).await;
    }
    assert_eq!(server.count(Resource::Services, Verb::List), 1);
    assert_eq!(server.count(Resource::EndpointSlices, Verb::List), 1);
    assert!(server.count(Resource::Services, Verb::Watch) > 1);
}

#[tokio::test]
async fn bookmarks_save_a_list() {
    let (server, mut follower) = follow_two_services().await;
    for round in 0..20 {
        server.apply(zone_node(&format!("zone-{round}")));
    }
    follower.settle(&server).await;
    follower.until(|_| server.bookmark_is_current(Resource::Services)).await;
    // Whoever asks for the version of the Service itself gets 410 from now on.
    server.forget_history();
    server.close_watches();
    server.apply(service("other", "10.96.0.9"));
    follower.settle(&server).await;
    assert_eq!(server.count(Resource::Services, Verb::List), 1);
}

#[tokio::test]
async fn survives_expired_versions() {
    survive(|server, _| server.expire()).await;
}

#[tokio::test]
async fn survives_gone_as_http_status() {
    survive(|server, _| {
        server.say_gone_with_status();
        server.expire();
    })
    .await;
}

#[tokio::test]
async fn survives_error_events() {
    for code in [410, 500] {
        survive(|server, resource| server.fail(resource, Verb::Watch, Fault::ErrorEvent(code), 2)).await;
    }
}

#[tokio::test]
async fn survives_refused_watches() {
    for code in [401, 403, 500, 503] {
        survive(|server, resource| server.fail(resource, Verb::Watch, Fault::Status(code), 2)).await;
    }
}

#[tokio::test]
async fn survives_events_that_cannot_be_read() {
    survive(|server, resource| server.fail(resource, Verb::Watch, Fault::BrokenJson, 1)).await;
    survive(|server, resource| server.fail(resource, Verb::Watch, Fault::CutShort, 2)).await;
}

#[tokio::test]
async fn survives_lists_that_fail() {
    for fault in [Fault::Status(500), Fault::Status(403), Fault::BrokenJson, Fault::CutShort, Fault::Silence] {
        survive(|server, resource| {
            server.expire();
            server.fail(resource, Verb::List, fault.clone(), 2);
        })
        .await;
    }
}

#[tokio::test]
async fn survives_a_server_that_is_away() {
    let (mut server, mut follower) = follow_two_services().await;
    for (round, expired) in [(1, false), (2, true)] {
        let errors = follower.stats.kind(Kind::Service).errors();
        server.go_away().await;
        follower.until(|follower| follower.stats.kind(Kind::Service).errors() > errors + 1).await;
        assert!(!follower.stats.kind(Kind::Service).connected());
        change_everything(&server, round);
        if expired {
            server.expire();
        }
        server.come_back().await.unwrap();
        follower.settle(&server).await;
        follower.until(|follower| follower.stats.kind(Kind::Service).connected()).await;
    }
    assert!(follower.index.is_synced());
}

/// Everything that is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn lines(&self, wanted: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(wanted)).map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn a_missing_permission_is_named_and_nodes_are_not_vital() {
    let (log, _guard) = Log::start();
    let server = ApiServer::start().await.unwrap();
    server.apply(zone_node("zone-a"));
    server.apply(service("web", "10.96.0.1"));
    server.fail(Resource::Nodes, Verb::List, Fault::Status(403), usize::MAX);
    let mut follower = Follower::start(&server).await;
    follower.until(|follower| follower.index.is_synced()).await;
    follower.until(|follower| follower.stats.kind(Kind::Node).errors() > 3).await;
    assert_eq!(follower.index.node().zone, None);
    let denied = log.lines("not allowed to list nodes");
    assert_eq!(denied.len(), 1, "{denied:#?}");
    assert!(denied[0].contains("ClusterRole") && denied[0].contains("verbs list and watch on nodes"), "{denied:#?}");
    server.heal();
    follower.settle(&server).await;
    assert_eq!(follower.index.node().zone.as_deref(), Some("zone-a"));
}

#[tokio::test]
async fn an_outage_is_logged_once_for_each_watch() {
    let (log, _guard) = Log::start();
    let (mut server, mut follower) = follow_two_services().await;
    server.go_away().await;
    for kind in Kind::ALL {
        follower.until(|follower| follower.stats.kind(kind).errors() > 4).await;
    }
    server.come_back().await.unwrap();
    change_everything(&server, 1);
    follower.settle(&server).await;
    for kind in Kind::ALL {
        let span = format!("watch{{resource=\"{}\"}}", kind.resource());
        for wanted in ["cannot be reached", "answers again"] {
            let lines: Vec<_> = log.lines(wanted).into_iter().filter(|line| line.contains(&span)).collect();
            assert_eq!(lines.len(), 1, "{kind}: {lines:#?}");
        }
    }
}

#[tokio::test]
async fn ends_with_its_receiver() {
    let (server, follower) = follow_two_services().await;
    let task = follower.hang_up();
    tokio::time::timeout(follower::PATIENCE, task).await.expect("the source ends").unwrap();
    drop(server);
}

#[tokio::test]
async fn a_client_that_cannot_be_set_up_says_what_to_do() {
    let missing = kubernetes::connect(Some("/nonexistent/kubeconfig".as_ref()), &ApiRequests::default())
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(missing.contains("/nonexistent/kubeconfig"), "{missing}");
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
        let outside = kubernetes::connect(None, &ApiRequests::default()).await.err().unwrap().to_string();
        assert!(outside.contains("KUBERNETES_SERVICE_HOST") && outside.contains("--kubeconfig"), "{outside}");
    }
}

#[tokio::test]
async fn a_client_for_https_can_be_set_up() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("ca.pem"), include_str!("data/ca.pem")).unwrap();
    let kubeconfig = directory.path().join("kubeconfig");
    let cluster = json!({"server": "https://127.0.0.1:1", "certificate-authority": "ca.pem"});
    let content = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": {"token": "secret"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    });
    std::fs::write(&kubeconfig, content.to_string()).unwrap();
    let client = kubernetes::connect(Some(&kubeconfig), &ApiRequests::default()).await.unwrap();
    let mut follower = Follower::start_with(client, NODE);
    follower.until(|follower| follower.stats.kind(Kind::Service).errors() > 0).await;
}
