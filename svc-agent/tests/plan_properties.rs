//! `plan_service` against a second, plain account of the rules, over random services, slices and nodes; and properties
//! that hold whatever the rules are.
#![allow(clippy::unwrap_used, reason = "tests")]

mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use model::{endpoint_port, name, node, service_port};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use svc_agent::model::{Endpoint, EndpointSlice, Hints, IpFamily, Node, Service, TrafficPolicy, Transport, Weight};
use svc_agent::plan::{Decision, PlannedBackend, ServicePlan, plan_service};

const PORTS: [(&str, Transport); 4] =
    [("", Transport::Tcp), ("a", Transport::Tcp), ("a", Transport::Udp), ("b", Transport::Sctp)];

fn any_endpoint(family: IpFamily) -> impl Strategy<Value = Endpoint> {
    let address = (1..7u16).prop_map(move |number| match family {
        IpFamily::V4 => IpAddr::from(Ipv4Addr::new(10, 0, 0, number as u8)),
        IpFamily::V6 => IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number)),
    });
    // Mostly with hints: they have an effect only if every ready endpoint has one.
    let zones = subsequence(vec!["za", "zb"], 0..=2);
    let nodes = subsequence(vec!["n1", "n2"], 0..=2);
    let hints = option::weighted(0.8, (zones, nodes)).prop_map(|hints| {
        let shared = |names: Vec<&str>| names.into_iter().map(Arc::from).collect();
        let hints = hints.map(|(zones, nodes)| Hints { zones: shared(zones), nodes: shared(nodes) });
        hints.filter(|hints| *hints != Hints::default()).map(Arc::new)
    });
    let conditions = (any::<bool>(), any::<bool>(), any::<bool>());
    let place = option::of(select(vec!["n1", "n2"]));
    (address, conditions, place, hints).prop_map(|(address, (ready, serving, terminating), place, hints)| Endpoint {
        address,
        ready,
        serving,
        terminating,
        node: place.map(Arc::from),
        hints,
    })
}

fn any_slice() -> impl Strategy<Value = EndpointSlice> {
    select(vec![IpFamily::V4, IpFamily::V6]).prop_flat_map(|family| {
        let ports = vec((select(PORTS.to_vec()), select(vec![8080, 8081])), 0..3);
        (ports, vec(any_endpoint(family), 0..5)).prop_map(move |(ports, endpoints)| EndpointSlice {
            name: name("slice"),
            service: "web".into(),
            family,
            ports: ports
                .into_iter()
                .map(|((port, transport), number)| endpoint_port(port, transport, number))
                .collect(),
            endpoints,
            last_change_trigger: None,
            weight: Weight::default(),
        })
    })
}

fn any_service() -> impl Strategy<Value = Service> {
    let cluster_ips = select(vec![vec!["10.96.0.1"], vec!["fd96::1"], vec!["10.96.0.1", "fd96::1"]]);
    let ports = btree_set(0..PORTS.len(), 1..4);
    let policy = select(vec![TrafficPolicy::Cluster, TrafficPolicy::Local]);
    (cluster_ips, ports, policy, option::of(1..100u32)).prop_map(|(ips, ports, policy, affinity)| Service {
        name: name("web"),
        cluster_ips: ips.into_iter().map(|ip| ip.parse().unwrap()).collect(),
        ports: ports.into_iter().map(|port| service_port(PORTS[port].0, PORTS[port].1, 80 + port as u16)).collect(),
        internal_traffic_policy: policy,
        affinity_timeout_seconds: affinity,
        load_balancing: None,
        reset_when_gone: false,
    })
}

fn any_node() -> impl Strategy<Value = Node> {
    option::of(select(vec!["za", "zb", "zc"])).prop_map(node)
}

/// Endpoints that share an address and port must agree, or the rules leave the outcome open.
fn without_ambiguity(mut slices: Vec<EndpointSlice>) -> Vec<EndpointSlice> {
    let mut seen: BTreeMap<(IpAddr, bool), Endpoint> = BTreeMap::new();
    for endpoint in slices.iter_mut().flat_map(|slice| &mut slice.endpoints) {
        *endpoint = seen.entry((endpoint.address, endpoint.terminating)).or_insert_with(|| endpoint.clone()).clone();
    }
    slices
}

/// The rules of kube-proxy 1.36 once more, as prose: slow, without any cleverness.
fn reference(
    service: &Service,
    slices: &[EndpointSlice],
    node: &Node,
) -> BTreeMap<String, (String, BTreeSet<SocketAddr>)> {
    let mut result = BTreeMap::new();
    for ip in &service.cluster_ips {
        for port in &service.ports {
            let mut endpoints: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
            for slice in slices {
                for slice_port in &slice.ports {
                    for endpoint in &slice.endpoints {
                        if ip.is_ipv4() != endpoint.address.is_ipv4()
                            || slice_port.name != port.name
                            || slice_port.transport != port.transport
                        {
                            continue;
                        }
                        let key = SocketAddr::new(endpoint.address, slice_port.port);
                        if !endpoints.contains_key(&key) || !endpoint.terminating {
                            endpoints.insert(key, endpoint.clone());
                        }
                    }
                }
            }
            let of = |wanted: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<SocketAddr> {
                endpoints.iter().filter(|(_, endpoint)| wanted(endpoint)).map(|(key, _)| *key).collect()
            };
            let has = |hints: &[Arc<str>], wanted: &str| hints.iter().any(|hint| &**hint == wanted);
            let local = |endpoint: &Endpoint| endpoint.node.as_deref() == Some(&*node.name);
            let zone = node.zone.as_deref().unwrap_or("");
            let ready: Vec<&Endpoint> = endpoints.values().filter(|endpoint| endpoint.ready).collect();
            let by_node = ready.iter().all(|endpoint| !endpoint.node_hints().is_empty())
                && ready.iter().any(|endpoint| has(endpoint.node_hints(), &node.name));
            let by_zone = !by_node
                && ready.iter().all(|endpoint| !endpoint.zone_hints().is_empty())
                && ready.iter().any(|endpoint| has(endpoint.zone_hints(), zone));
            let ending = |endpoint: &Endpoint| endpoint.serving && endpoint.terminating;
            let mut slots = of(&|endpoint| {
                endpoint.ready
                    && match service.internal_traffic_policy {
                        TrafficPolicy::Local => local(endpoint),
                        TrafficPolicy::Cluster if by_node => has(endpoint.node_hints(), &node.name),
                        TrafficPolicy::Cluster if by_zone => has(endpoint.zone_hints(), zone),
                        TrafficPolicy::Cluster => true,
                    }
            });
            if slots.is_empty() {
                slots = of(&|endpoint| {
                    ending(endpoint) && (service.internal_traffic_policy == TrafficPolicy::Cluster || local(endpoint))
                });
            }
            let any_at_all = !of(&|endpoint| endpoint.ready || ending(endpoint)).is_empty();
            let verdict = match (slots.is_empty(), any_at_all) {
                (false, _) => "forward",
                (true, true) => "drop",
                (true, false) => "reject",
            };
            result
                .insert(format!("{} {}", SocketAddr::new(*ip, port.port), port.transport), (verdict.to_owned(), slots));
        }
    }
    result
}

fn slots(plan: &ServicePlan) -> &[PlannedBackend] {
    match &plan.decision {
        Decision::Forward(slots) => slots,
        Decision::Reject | Decision::Drop => &[],
    }
}

fn observed(plans: &[ServicePlan]) -> BTreeMap<String, (String, BTreeSet<SocketAddr>)> {
    let verdict = |plan: &ServicePlan| match plan.decision {
        Decision::Forward(_) => "forward".to_owned(),
        Decision::Reject => "reject".to_owned(),
        Decision::Drop => "drop".to_owned(),
    };
    let addresses = |plan: &ServicePlan| slots(plan).iter().map(|backend| backend.address).collect();
    plans
        .iter()
        .map(|plan| (format!("{} {}", plan.frontend, plan.id.transport), (verdict(plan), addresses(plan))))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_plan_follows_the_rules(service in any_service(), slices in vec(any_slice(), 0..4), node in any_node()) {
        let slices = without_ambiguity(slices);
        let plans = plan_service(&service, slices.iter(), &node);
        prop_assert_eq!(observed(&plans), reference(&service, &slices, &node));
    }

    #[test]
    fn every_plan_is_well_formed(service in any_service(), slices in vec(any_slice(), 0..4), node in any_node()) {
        let plans = plan_service(&service, slices.iter(), &node);
        prop_assert_eq!(plans.len(), service.cluster_ips.len() * service.ports.len());
        for plan in &plans {
            let used = slots(plan);
            prop_assert!(used.is_sorted_by_key(|backend| backend.address));
            prop_assert!(used.windows(2).all(|pair| pair[0].address != pair[1].address));
            prop_assert!(plan.draining.is_sorted());
            prop_assert!(plan.draining.iter().all(|draining| used.iter().all(|slot| slot.address != draining.address)));
            prop_assert!(!matches!(&plan.decision, Decision::Forward(slots) if slots.is_empty()));
            let all = used.iter().chain(&plan.draining);
            prop_assert!(all.clone().all(|backend| backend.address.is_ipv4() == plan.frontend.is_ipv4()));
            // No serving endpoint is forgotten: its UDP flows would be cut.
            let known: BTreeSet<IpAddr> = all.map(|backend| backend.address.ip()).collect();
            let named = |slice: &EndpointSlice| {
                slice.ports.iter().any(|port| port.name == plan.id.port_name && port.transport == plan.id.transport)
            };
            let of_port = || slices.iter().filter(|slice| slice.family == plan.id.family && named(slice));
            for endpoint in of_port().flat_map(|slice| &slice.endpoints).filter(|endpoint| endpoint.serving) {
                let same = of_port().flat_map(|slice| &slice.endpoints).filter(|e| e.address == endpoint.address);
                let undisputed = same.into_iter().all(|other| other.serving);
                prop_assert!(known.contains(&endpoint.address) || !undisputed);
            }
        }
    }

    #[test]
    fn the_order_of_slices_and_endpoints_does_not_matter(
        service in any_service(),
        slices in vec(any_slice(), 0..4),
        node in any_node(),
    ) {
        let slices = without_ambiguity(slices);
        let mut reversed: Vec<_> = slices.iter().rev().cloned().collect();
        reversed.iter_mut().for_each(|slice| slice.endpoints.reverse());
        prop_assert_eq!(
            plan_service(&service, slices.iter(), &node),
            plan_service(&service, reversed.iter(), &node)
        );
    }
}
