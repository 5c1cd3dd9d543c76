//! Changes in, affected services out.

use std::time::Duration;

use super::*;
use crate::model::{Endpoint, EndpointPort, Hints, IpFamily, ServicePort, TrafficPolicy, Transport, Weight};

fn name(name: &str) -> ObjectName {
    ObjectName { namespace: "default".into(), name: name.into() }
}

fn service(service: &str, cluster_ip: &str) -> Arc<Service> {
    Arc::new(Service {
        name: name(service),
        cluster_ips: vec![cluster_ip.parse().unwrap()],
        ports: vec![ServicePort { name: "http".into(), transport: Transport::Tcp, port: 80 }],
        internal_traffic_policy: TrafficPolicy::Cluster,
        affinity_timeout_seconds: None,
        load_balancing: None,
        reset_when_gone: false,
    })
}

fn slice_with(slice: &str, service: &str, change: impl FnOnce(&mut EndpointSlice)) -> Arc<EndpointSlice> {
    let mut slice = EndpointSlice {
        name: name(slice),
        service: service.into(),
        family: IpFamily::V4,
        ports: vec![EndpointPort { name: "http".into(), transport: Transport::Tcp, port: 8080 }],
        endpoints: vec![Endpoint {
            address: "10.0.0.1".parse().unwrap(),
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            hints: None,
        }],
        last_change_trigger: None,
        weight: Weight::default(),
    };
    change(&mut slice);
    Arc::new(slice)
}

fn slice(slice: &str, service: &str) -> Arc<EndpointSlice> {
    slice_with(slice, service, |_| {})
}

fn node(zone: Option<&str>) -> Arc<Node> {
    Arc::new(Node { name: "n1".into(), zone: zone.map(Into::into), ..Node::default() })
}

fn apply(index: &mut Index, events: impl IntoIterator<Item = SourceEvent>) {
    events.into_iter().for_each(|event| index.apply(event));
}

fn list(kind: Kind, objects: impl IntoIterator<Item = SourceEvent>) -> Vec<SourceEvent> {
    let begin = std::iter::once(SourceEvent::ListStarted(kind));
    begin.chain(objects).chain([SourceEvent::ListCompleted(kind)]).collect()
}

/// An index that is synced, with nothing left to publish.
fn synced(
    services: impl IntoIterator<Item = Arc<Service>>,
    slices: impl IntoIterator<Item = Arc<EndpointSlice>>,
) -> Index {
    let mut index = Index::new("n1");
    apply(&mut index, list(Kind::Node, [SourceEvent::NodeApplied(node(Some("zone-a")))]));
    apply(&mut index, list(Kind::Service, services.into_iter().map(SourceEvent::ServiceApplied)));
    apply(&mut index, list(Kind::EndpointSlice, slices.into_iter().map(SourceEvent::SliceApplied)));
    assert!(index.is_synced());
    index.take_changes();
    index
}

fn affected(index: &mut Index) -> Vec<String> {
    index.take_changes().services.iter().map(|name| name.name.to_string()).collect()
}

#[test]
fn nothing_is_affected_before_everything_is_listed() {
    let mut index = Index::new("n1");
    apply(&mut index, list(Kind::Service, [SourceEvent::ServiceApplied(service("web", "10.96.0.1"))]));
    apply(
        &mut index,
        [SourceEvent::ListStarted(Kind::EndpointSlice), SourceEvent::SliceApplied(slice("web-1", "web"))],
    );
    assert_eq!(index.take_changes(), Changes::default());
    apply(&mut index, [SourceEvent::ListCompleted(Kind::EndpointSlice)]);
    assert!(!index.is_synced());
    // A node without object is as complete as any.
    apply(&mut index, list(Kind::Node, []));
    assert!(index.is_synced());
    assert_eq!(affected(&mut index), ["web"]);
    assert_eq!(affected(&mut index), [""; 0]);
    assert_eq!(*index.node(), Node { name: "n1".into(), ..Node::default() });
}

#[test]
fn a_change_affects_its_service_only() {
    let services = ["a", "b", "c"].iter().zip(1..).map(|(name, ip)| service(name, &format!("10.96.0.{ip}")));
    let mut index = synced(services, [slice("a-1", "a"), slice("b-1", "b")]);
    apply(
        &mut index,
        [SourceEvent::SliceApplied(slice("b-1", "b")), SourceEvent::ServiceApplied(service("a", "10.96.0.1"))],
    );
    assert_eq!(affected(&mut index), [""; 0], "nothing is different");
    apply(&mut index, [SourceEvent::SliceApplied(slice("b-2", "b"))]);
    assert_eq!(affected(&mut index), ["b"]);
    apply(&mut index, [SourceEvent::SliceDeleted(name("b-2")), SourceEvent::SliceDeleted(name("unknown"))]);
    assert_eq!(affected(&mut index), ["b"]);
    apply(&mut index, [SourceEvent::ServiceDeleted(name("c")), SourceEvent::ServiceDeleted(name("unknown"))]);
    assert_eq!(affected(&mut index), ["c"]);
    assert_eq!(index.service(&name("c")), None);
    assert_eq!(index.stats(), IndexStats { services: 2, slices: 2, endpoints: 2, frontends: 2, conflicts: 0 });
}

#[test]
fn services_that_are_gone_come_first() {
    let mut index = synced([service("z", "10.96.0.1")], []);
    apply(&mut index, [SourceEvent::ServiceDeleted(name("z")), SourceEvent::ServiceApplied(service("a", "10.96.0.1"))]);
    assert_eq!(affected(&mut index), ["z", "a"]);
}

#[test]
fn a_slice_that_moves_affects_both_services() {
    let mut index = synced([service("a", "10.96.0.1"), service("b", "10.96.0.2")], [slice("s", "a")]);
    apply(&mut index, [SourceEvent::SliceApplied(slice("s", "b"))]);
    assert_eq!(affected(&mut index), ["a", "b"]);
    assert_eq!(index.slices(&name("a")).count(), 0);
    assert_eq!(index.slices(&name("b")).count(), 1);
    // A slice may come before its service, and stay when the service goes.
    apply(&mut index, [SourceEvent::SliceApplied(slice("s", "c")), SourceEvent::ServiceDeleted(name("c"))]);
    assert_eq!(affected(&mut index), ["c", "b"]);
    assert_eq!(index.slices(&name("c")).count(), 1);
}

#[test]
fn a_complete_list_removes_what_it_does_not_mention() {
    let services = || [service("a", "10.96.0.1"), service("b", "10.96.0.2")];
    let mut index = synced(services(), [slice("a-1", "a"), slice("b-1", "b")]);
    apply(&mut index, list(Kind::Service, [SourceEvent::ServiceApplied(service("b", "10.96.0.2"))]));
    assert_eq!(affected(&mut index), ["a"]);
    apply(&mut index, list(Kind::EndpointSlice, []));
    assert_eq!(affected(&mut index), ["a", "b"]);
    assert_eq!(index.stats(), IndexStats { services: 1, frontends: 1, ..IndexStats::default() });
    apply(&mut index, list(Kind::Node, []));
    assert_eq!(index.node().zone, None);
    assert!(index.is_synced());
}

#[test]
fn a_list_that_breaks_off_removes_nothing() {
    let mut index = synced([service("a", "10.96.0.1"), service("b", "10.96.0.2")], [slice("a-1", "a")]);
    for _ in 0..3 {
        apply(
            &mut index,
            [SourceEvent::ListStarted(Kind::Service), SourceEvent::ServiceApplied(service("a", "10.96.0.1"))],
        );
    }
    assert!(index.is_synced());
    assert_eq!(affected(&mut index), [""; 0]);
    assert!(index.service(&name("b")).is_some());
    // What only the broken list mentioned is gone if the complete one does not.
    apply(&mut index, list(Kind::Service, [SourceEvent::ServiceApplied(service("b", "10.96.0.2"))]));
    assert_eq!(affected(&mut index), ["a"]);
}

#[test]
fn what_cannot_be_understood_survives_a_list() {
    let mut index = synced([service("a", "10.96.0.1")], [slice("a-1", "a"), slice("a-2", "a")]);
    apply(&mut index, list(Kind::Service, [SourceEvent::Kept(Kind::Service, name("a"))]));
    let kept = [SourceEvent::Kept(Kind::EndpointSlice, name("a-2")), SourceEvent::Kept(Kind::EndpointSlice, name("x"))];
    apply(&mut index, list(Kind::EndpointSlice, kept));
    apply(&mut index, list(Kind::Node, [SourceEvent::Kept(Kind::Node, name("n1"))]));
    assert_eq!(affected(&mut index), ["a"]);
    assert_eq!(index.slices(&name("a")).map(|slice| &*slice.name.name).collect::<Vec<_>>(), ["a-2"]);
    assert_eq!(index.node().zone.as_deref(), Some("zone-a"));
}

#[test]
fn a_node_that_moves_affects_services_with_hints() {
    let hinted = slice_with("b-1", "b", |slice| {
        slice.endpoints[0].hints = Some(Arc::new(Hints { zones: vec!["zone-a".into()], nodes: vec![] }));
    });
    let services = [service("a", "10.96.0.1"), service("b", "10.96.0.2")];
    let mut index = synced(services, [slice("a-1", "a"), hinted]);
    apply(&mut index, [SourceEvent::NodeApplied(node(Some("zone-a")))]);
    assert_eq!(index.take_changes(), Changes::default());
    apply(&mut index, [SourceEvent::NodeApplied(node(Some("zone-b")))]);
    assert_eq!(index.take_changes(), Changes { services: vec![name("b")], node: true, triggers: vec![] });
    apply(&mut index, [SourceEvent::NodeDeleted]);
    assert_eq!(index.take_changes(), Changes { services: vec![name("b")], node: true, triggers: vec![] });
    apply(&mut index, [SourceEvent::NodeApplied(Arc::new(Node { leaving: true, ..(*node(None)).clone() }))]);
    assert_eq!(index.take_changes(), Changes { services: vec![], node: true, triggers: vec![] });
}

#[test]
fn a_contested_frontend_goes_to_the_first_name() {
    let frontend = Frontend { address: "10.96.0.1:80".parse().unwrap(), transport: Transport::Tcp };
    let mut index = synced([service("b", "10.96.0.1")], []);
    apply(&mut index, [SourceEvent::ServiceApplied(service("c", "10.96.0.1"))]);
    assert_eq!(affected(&mut index), ["c"], "the owner is not disturbed");
    apply(&mut index, [SourceEvent::ServiceApplied(service("a", "10.96.0.1"))]);
    assert_eq!(affected(&mut index), ["a", "b"]);
    assert_eq!(index.frontend_owner(&frontend), Some(&name("a")));
    assert_eq!((index.stats().frontends, index.stats().conflicts), (1, 1));
    apply(&mut index, [SourceEvent::ServiceDeleted(name("c"))]);
    assert_eq!(affected(&mut index), ["c"]);
    apply(&mut index, [SourceEvent::ServiceApplied(service("a", "10.96.0.9"))]);
    assert_eq!(affected(&mut index), ["a", "b"]);
    assert_eq!(index.frontend_owner(&frontend), Some(&name("b")));
    assert_eq!(index.stats().conflicts, 0);
    apply(&mut index, [SourceEvent::ServiceDeleted(name("b"))]);
    assert_eq!(index.frontend_owner(&frontend), None);
}

#[test]
fn triggers_are_those_of_changes_since_the_first_list() {
    let at = |seconds| {
        slice_with("a-1", "a", |slice| {
            slice.last_change_trigger = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
        })
    };
    let mut index = synced([service("a", "10.96.0.1")], [at(1)]);
    apply(
        &mut index,
        [SourceEvent::SliceApplied(at(2)), SourceEvent::SliceApplied(at(2)), SourceEvent::SliceApplied(at(3))],
    );
    let times = [2, 3].map(|seconds| (IpFamily::V4, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)));
    assert_eq!(index.take_changes(), Changes { services: vec![name("a")], node: false, triggers: times.to_vec() });
}
