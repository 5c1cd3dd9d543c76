//! Somebody who follows an API server into an index, and checks after every single event that nothing steady is missing.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use svc_agent::index::Index;
use svc_agent::model::{EndpointSlice, Node, ObjectName, Service};
use svc_agent::source::{
    ApiRequests, Interner, SourceEvent, SourceStats, kubernetes, parse_endpoint_slice, parse_node, parse_service,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use svc_testbed::apiserver::{ApiServer, Resource};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The own node.
pub const NODE: &str = "n1";

pub struct Follower {
    pub index: Index,
    pub stats: Arc<SourceStats>,
    events: mpsc::Receiver<SourceEvent>,
    task: JoinHandle<()>,
    steady: Vec<ObjectName>,
}

/// All that an index holds.
#[derive(PartialEq, Debug)]
pub struct State {
    services: BTreeMap<ObjectName, Service>,
    slices: BTreeMap<ObjectName, EndpointSlice>,
    node: Node,
}

impl Follower {
    pub async fn start(server: &ApiServer) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = directory.path().join("kubeconfig");
        std::fs::write(&kubeconfig, server.kubeconfig()).unwrap();
        let client = kubernetes::connect(Some(&kubeconfig), &ApiRequests::default()).await.unwrap();
        Self::start_with(client, NODE)
    }

    pub fn start_with(client: kube::Client, node: &str) -> Self {
        let options = kubernetes::Options {
            min_backoff: Duration::from_millis(5),
            max_backoff: Duration::from_millis(20),
            list_timeout: Duration::from_millis(500),
            ..kubernetes::Options::new(node)
        };
        let stats = Arc::new(SourceStats::default());
        let (sender, events) = mpsc::channel(16);
        let task = tokio::spawn(kubernetes::run(client, options, stats.clone(), sender));
        Self { index: Index::new(node), stats, events, task, steady: Vec::new() }
    }

    /// From now on the service and its slices must never be missing.
    pub fn expect_always(&mut self, service: &str) {
        self.steady.push(ObjectName { namespace: "default".into(), name: service.into() });
        self.check_steady();
    }

    pub fn has_service(&self, service: &str) -> bool {
        self.index.service(&ObjectName { namespace: "default".into(), name: service.into() }).is_some()
    }

    /// Stops receiving.
    pub fn hang_up(self) -> JoinHandle<()> {
        self.task
    }

    /// Follows until the index is what a fresh list would give.
    pub async fn settle(&mut self, server: &ApiServer) {
        let expected = fresh(server);
        if !self.reach(&expected, PATIENCE).await {
            assert_eq!(self.state(&expected), expected);
            panic!("not synced");
        }
    }

    /// Whether the index comes to hold exactly this in time.
    pub async fn reach(&mut self, expected: &State, patience: Duration) -> bool {
        let reached = |follower: &Self| follower.index.is_synced() && follower.state(expected) == *expected;
        self.follow(reached, patience).await
    }

    /// Follows until something is so.
    pub async fn until(&mut self, condition: impl Fn(&Self) -> bool) {
        assert!(self.follow(condition, PATIENCE).await, "it did not happen; stats: {:#?}", self.stats);
    }

    async fn follow(&mut self, done: impl Fn(&Self) -> bool, patience: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + patience;
        while !done(self) {
            if tokio::time::Instant::now() > deadline {
                return false;
            }
            // What a condition looks at may change without an event.
            let Ok(event) = tokio::time::timeout(Duration::from_millis(10), self.events.recv()).await else {
                continue;
            };
            let mut next = Some(event.expect("the source goes on"));
            while let Some(event) = next {
                self.index.apply(event);
                self.check_steady();
                next = self.events.try_recv().ok();
            }
        }
        true
    }

    fn check_steady(&self) {
        for name in &self.steady {
            assert!(self.index.service(name).is_some(), "{name} is missing");
            assert!(self.index.slices(name).count() > 0, "{name} has no slices");
        }
    }

    /// What the index holds; `names` says under which Services to look for slices.
    fn state(&self, names: &State) -> State {
        let services = self.index.services().map(|service| (service.name.clone(), service.clone())).collect();
        let mut slices = BTreeMap::new();
        let owner =
            |slice: &EndpointSlice| ObjectName { namespace: slice.name.namespace.clone(), name: slice.service.clone() };
        for owner in names.slices.values().map(owner) {
            slices.extend(self.index.slices(&owner).map(|slice| (slice.name.clone(), slice.clone())));
        }
        // Slices under other names show as a difference.
        if slices.len() != self.index.stats().slices {
            slices.clear();
        }
        State { services, slices, node: self.index.node().clone() }
    }
}

impl State {
    /// What these objects mean to the agent; what it cannot use is left out.
    pub fn of(services: &[core::Service], slices: &[discovery::EndpointSlice], node: Option<&core::Node>) -> Self {
        let mut interner = Interner::default();
        let services = services.iter().filter_map(|service| Some(parse_service(&mut interner, service).ok()?.object));
        let services = services.map(|service| (service.name.clone(), service)).collect();
        let slices = slices.iter().filter_map(|slice| Some(parse_endpoint_slice(&mut interner, slice).ok()?.object));
        let slices = slices.map(|slice| (slice.name.clone(), slice)).collect();
        let unknown = || Node { name: NODE.into(), ..Node::default() };
        let node = node.map_or_else(unknown, |node| parse_node(&mut Interner::default(), node).unwrap().object);
        Self { services, slices, node }
    }
}

/// What a fresh list gives.
fn fresh(server: &ApiServer) -> State {
    fn typed<K: DeserializeOwned>(objects: Vec<Value>) -> Vec<K> {
        objects.into_iter().map(|object| serde_json::from_value(object).unwrap()).collect()
    }
    let services = server.objects(Resource::Services, "!service.kubernetes.io/service-proxy-name", "");
    let slices = server.objects(Resource::EndpointSlices, "!service.kubernetes.io/headless", "");
    let nodes = server.objects(Resource::Nodes, "", &format!("metadata.name={NODE}"));
    State::of(&typed(services), &typed(slices), typed(nodes).first())
}

pub fn service(name: &str, cluster_ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name, "namespace": "default", "labels": {"app": name},
            "managedFields": [{"manager": "test", "operation": "Update", "fieldsV1": {"f:spec": {"f:ports": {}}}}],
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "selector": {"app": name}, "sessionAffinity": "None",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}],
        },
    })
}

pub fn slice(name: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoint = |address: &&str| json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": NODE});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

/// The own Node object.
pub fn zone_node(zone: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NODE, "labels": {"topology.kubernetes.io/zone": zone}},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.50.1"}]},
    })
}
