//! The rules of endpoint selection one by one: objects in, the whole plan out.
#![allow(clippy::unwrap_used, reason = "tests")]

mod model;

use std::sync::Arc;

use model::{EndpointExt, Is, endpoint, endpoint_port, name, node, service, service_port, slice};
use svc_agent::index::Index;
use svc_agent::model::{Endpoint, EndpointSlice, IpFamily, LoadBalancing, Service, TrafficPolicy, Transport, Weight};
use svc_agent::plan::{Decision, PlannedBackend, ServiceId, ServicePlan, plan_affected, plan_service};
use svc_agent::source::{Kind, SourceEvent};

fn backends<const N: usize>(backends: [(&str, bool); N]) -> Vec<PlannedBackend> {
    backends
        .map(|(address, local)| PlannedBackend { address: address.parse().unwrap(), local, weight: Weight::default() })
        .into()
}

fn forward<const N: usize>(expected: [&str; N]) -> Decision {
    Decision::Forward(backends(expected.map(|address| (address, false))))
}

fn plan(service: &Service, slices: &[EndpointSlice]) -> Vec<ServicePlan> {
    plan_service(service, slices.iter(), &node(Some("zone-a")))
}

/// Decision and draining endpoints of a service with one port.
fn plan_endpoints(policy: TrafficPolicy, endpoints: &[Endpoint]) -> (Decision, Vec<PlannedBackend>) {
    let service = Service { internal_traffic_policy: policy, ..service("web", &["10.96.0.1"]) };
    let plan = plan(&service, &[slice("web-1", "web", endpoints)]).remove(0);
    (plan.decision, plan.draining)
}

fn decide(policy: TrafficPolicy, endpoints: &[Endpoint]) -> Decision {
    plan_endpoints(policy, endpoints).0
}

use TrafficPolicy::{Cluster, Local};

#[test]
fn one_plan_per_port_and_cluster_ip() {
    let service = Service {
        ports: vec![service_port("dns", Transport::Udp, 53), service_port("dns-tcp", Transport::Tcp, 53)],
        affinity_timeout_seconds: Some(60),
        load_balancing: None,
        reset_when_gone: false,
        ..service("dns", &["10.96.0.10", "fd96::10"])
    };
    let ports = vec![endpoint_port("dns", Transport::Udp, 5353), endpoint_port("dns-tcp", Transport::Tcp, 5354)];
    let v4 =
        EndpointSlice { ports: ports.clone(), ..slice("dns-4", "dns", &[endpoint("10.0.0.1", Is::Ready).on("n1")]) };
    let v6 = EndpointSlice { ports, ..slice("dns-6", "dns", &[endpoint("fd00::1", Is::Ready)]) };
    let expected = |port_name: &str, transport, family, frontend: &str, backend: &str, local| ServicePlan {
        id: ServiceId { service: name("dns"), port_name: port_name.into(), transport, family },
        frontend: frontend.parse().unwrap(),
        decision: Decision::Forward(backends([(backend, local)])),
        draining: vec![],
        affinity_timeout_seconds: Some(60),
        load_balancing: LoadBalancing::Random,
        reset_when_gone: false,
    };
    assert_eq!(
        plan(&service, &[v4, v6]),
        [
            expected("dns", Transport::Udp, IpFamily::V4, "10.96.0.10:53", "10.0.0.1:5353", true),
            expected("dns-tcp", Transport::Tcp, IpFamily::V4, "10.96.0.10:53", "10.0.0.1:5354", true),
            expected("dns", Transport::Udp, IpFamily::V6, "[fd96::10]:53", "[fd00::1]:5353", false),
            expected("dns-tcp", Transport::Tcp, IpFamily::V6, "[fd96::10]:53", "[fd00::1]:5354", false),
        ]
    );
}

#[test]
fn slices_merge_by_port_name_and_protocol() {
    let other_number = EndpointSlice {
        ports: vec![endpoint_port("http", Transport::Tcp, 9090)],
        ..slice("web-2", "web", &[endpoint("10.0.0.1", Is::Ready), endpoint("10.0.0.2", Is::Ready)])
    };
    let other_name = EndpointSlice {
        ports: vec![endpoint_port("admin", Transport::Tcp, 8080), endpoint_port("http", Transport::Udp, 8080)],
        ..slice("web-3", "web", &[endpoint("10.0.0.3", Is::Ready)])
    };
    let slices = [slice("web-1", "web", &[endpoint("10.0.0.1", Is::Ready)]), other_number, other_name];
    let plans = plan(&service("web", &["10.96.0.1"]), &slices);
    assert_eq!(plans[0].decision, forward(["10.0.0.1:8080", "10.0.0.1:9090", "10.0.0.2:9090"]));
}

#[test]
fn sctp_keeps_endpoints_with_the_port_of_the_service() {
    let of = |transport| Service { ports: vec![service_port("s", transport, 3868)], ..service("s", &["10.96.0.1"]) };
    let slice = |transport, port, address: &str| EndpointSlice {
        ports: vec![endpoint_port("s", transport, port)],
        ..slice(&format!("s-{address}"), "s", &[endpoint(address, Is::Ready)])
    };
    let mixed = |transport| [slice(transport, 3868, "10.0.0.1"), slice(transport, 13868, "10.0.0.2")];
    let sctp = plan(&of(Transport::Sctp), &mixed(Transport::Sctp)).remove(0);
    assert_eq!((&sctp.decision, sctp.is_untranslatable()), (&forward(["10.0.0.1:3868"]), false));
    let others = plan(&of(Transport::Sctp), &mixed(Transport::Sctp)[1..]).remove(0);
    assert_eq!((&others.decision, others.is_untranslatable()), (&forward(["10.0.0.2:13868"]), true));
    assert!(!plan(&of(Transport::Sctp), &[])[0].is_untranslatable(), "nothing to complain of");
    let tcp = plan(&of(Transport::Tcp), &mixed(Transport::Tcp)).remove(0);
    assert_eq!((&tcp.decision, tcp.is_untranslatable()), (&forward(["10.0.0.1:3868", "10.0.0.2:13868"]), false));
}

#[test]
fn an_unnamed_port_matches_the_empty_name_only() {
    let unnamed = Service { ports: vec![service_port("", Transport::Tcp, 80)], ..service("web", &["10.96.0.1"]) };
    let empty = EndpointSlice {
        ports: vec![endpoint_port("", Transport::Tcp, 80)],
        ..slice("web-1", "web", &[endpoint("10.0.0.1", Is::Ready)])
    };
    let named = slice("web-2", "web", &[endpoint("10.0.0.2", Is::Ready)]);
    assert_eq!(plan(&unnamed, &[empty, named])[0].decision, forward(["10.0.0.1:80"]));
}

#[test]
fn a_running_duplicate_beats_a_terminating_one_in_any_order() {
    for order in [[0, 1], [1, 0]] {
        let slices = [
            slice("web-1", "web", &[endpoint("10.0.0.1", Is::Ending)]),
            slice("web-2", "web", &[endpoint("10.0.0.1", Is::Ready), endpoint("10.0.0.1", Is::NotReady)]),
        ];
        let slices = order.map(|position| slices[position].clone());
        let plan = plan(&service("web", &["10.96.0.1"]), &slices).remove(0);
        assert_eq!((plan.decision, plan.draining), (forward(["10.0.0.1:8080"]), vec![]));
    }
}

#[test]
fn only_ready_endpoints_while_there_are_any() {
    let endpoints = [
        endpoint("10.0.0.4", Is::ReadyNotServing),
        endpoint("10.0.0.3", Is::Ended),
        endpoint("10.0.0.2", Is::Ending),
        endpoint("10.0.0.1", Is::NotReady),
    ];
    assert_eq!(plan_endpoints(Cluster, &endpoints), (forward(["10.0.0.4:8080"]), backends([("10.0.0.2:8080", false)])));
}

#[test]
fn without_ready_ones_those_that_end_but_serve() {
    let ending =
        [endpoint("10.0.0.1", Is::Ending), endpoint("10.0.0.2", Is::Ended), endpoint("10.0.0.3", Is::NotReady)];
    assert_eq!(plan_endpoints(Cluster, &ending), (forward(["10.0.0.1:8080"]), vec![]));
    assert_eq!(decide(Cluster, &ending[1..]), Decision::Reject);
    assert_eq!(decide(Cluster, &[]), Decision::Reject);
}

#[test]
fn local_policy() {
    let local = |is| endpoint("10.0.0.1", is).on("n1");
    let remote = |is| endpoint("10.0.0.2", is).on("n2");
    let here = || Decision::Forward(backends([("10.0.0.1:8080", true)]));
    let remote_draining = backends([("10.0.0.2:8080", false)]);
    assert_eq!(plan_endpoints(Local, &[local(Is::Ready), remote(Is::Ready)]), (here(), remote_draining.clone()));
    assert_eq!(plan_endpoints(Local, &[local(Is::Ending), remote(Is::Ready)]), (here(), remote_draining.clone()));
    assert_eq!(plan_endpoints(Local, &[local(Is::NotReady), remote(Is::Ready)]), (Decision::Drop, remote_draining));
    assert_eq!(decide(Local, &[remote(Is::Ending)]), Decision::Drop);
    assert_eq!(decide(Local, &[local(Is::Ended), remote(Is::NotReady)]), Decision::Reject);
    assert_eq!(decide(Local, &[]), Decision::Reject);
    // Hints mean nothing to the Local policy.
    assert_eq!(decide(Local, &[local(Is::Ready).hint(&["zone-b"], &["n2"])]), here());
}

#[test]
fn zone_hints_count_when_every_ready_endpoint_has_them() {
    let ready = |address| endpoint(address, Is::Ready);
    let hinted = [
        ready("10.0.0.1").hint(&["zone-a"], &[]),
        ready("10.0.0.2").hint(&["zone-b"], &[]),
        ready("10.0.0.3").hint(&["zone-a", "zone-b"], &[]),
    ];
    let (decision, draining) = plan_endpoints(Cluster, &hinted);
    assert_eq!(decision, forward(["10.0.0.1:8080", "10.0.0.3:8080"]));
    assert_eq!(draining, backends([("10.0.0.2:8080", false)]), "UDP flows to another zone stay");

    let all = forward(["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert_eq!(decide(Cluster, &[hinted[0].clone(), ready("10.0.0.2")]), all, "one has no hint");
    let elsewhere = [ready("10.0.0.1").hint(&["zone-c"], &[]), hinted[1].clone()];
    assert_eq!(decide(Cluster, &elsewhere), all, "none for us");
    let unready = [hinted[0].clone(), hinted[1].clone(), endpoint("10.0.0.4", Is::NotReady)];
    assert_eq!(decide(Cluster, &unready), forward(["10.0.0.1:8080"]), "only ready ones are asked");

    let slices = [slice("web-1", "web", &hinted[..2])];
    let nowhere = plan_service(&service("web", &["10.96.0.1"]), slices.iter(), &node(None)).remove(0);
    assert_eq!(nowhere.decision, all, "we do not know our zone");
}

#[test]
fn node_hints_come_before_zone_hints() {
    let hinted = |address, nodes: &[&str]| endpoint(address, Is::Ready).hint(&["zone-a"], nodes);
    assert_eq!(
        decide(Cluster, &[hinted("10.0.0.1", &["n1"]), hinted("10.0.0.2", &["n2"])]),
        forward(["10.0.0.1:8080"])
    );
    let all = forward(["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert_eq!(decide(Cluster, &[hinted("10.0.0.1", &["n3"]), hinted("10.0.0.2", &["n2"])]), all);
    assert_eq!(decide(Cluster, &[hinted("10.0.0.1", &["n1"]), hinted("10.0.0.2", &[])]), all);
}

#[test]
fn the_fallback_ignores_topology() {
    let ending = |address| endpoint(address, Is::Ending).hint(&["zone-b"], &["n2"]);
    assert_eq!(decide(Cluster, &[ending("10.0.0.1"), ending("10.0.0.2")]), forward(["10.0.0.1:8080", "10.0.0.2:8080"]));
}

#[test]
fn a_frontend_that_belongs_to_another_service_is_left_out() {
    let mut index = Index::new("n1");
    Kind::ALL.into_iter().for_each(|kind| index.apply(SourceEvent::ListStarted(kind)));
    let apply = |index: &mut Index, service| index.apply(SourceEvent::ServiceApplied(Arc::new(service)));
    let two_ports = vec![service_port("http", Transport::Tcp, 80), service_port("udp", Transport::Udp, 80)];
    apply(&mut index, Service { ports: two_ports, ..service("b", &["10.96.0.1"]) });
    apply(&mut index, service("a", &["10.96.0.1"]));
    Kind::ALL.into_iter().for_each(|kind| index.apply(SourceEvent::ListCompleted(kind)));
    assert_eq!(index.take_changes().services, [name("a"), name("b")]);
    let planned = |service: &str| {
        let plans = plan_affected(&index, &name(service));
        plans.iter().map(|plan| (plan.id.port_name.to_string(), plan.id.transport)).collect::<Vec<_>>()
    };
    assert_eq!(planned("a"), [("http".to_owned(), Transport::Tcp)]);
    assert_eq!(planned("b"), [("udp".to_owned(), Transport::Udp)]);
    assert_eq!(planned("unknown"), []);
}
