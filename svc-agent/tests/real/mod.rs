//! The same source against a real API server, with real defaulting, validation and watches. Runs where KUBECONFIG_TEST names a
//! kubeconfig, or KUBEBUILDER_ASSETS a folder with etcd and kube-apiserver; what it creates has a name of its own and is deleted.

mod control_plane;

use std::path::Path;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use svc_agent::source::{ApiRequests, kubernetes};

use control_plane::ControlPlane;

use crate::follower::{Follower, PATIENCE, State};

struct Cluster {
    client: Client,
    /// Of the namespace and of the Node.
    name: String,
}

impl Cluster {
    /// API of the object's kind and the object's name.
    fn api(&self, object: &Value) -> (Api<DynamicObject>, String) {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (group, version) = match object["apiVersion"].as_str().unwrap().split_once('/') {
            Some((group, version)) => (group.to_owned(), version.to_owned()),
            None => (String::new(), text(&object["apiVersion"])),
        };
        let kind = text(&object["kind"]);
        let plural = format!("{}s", kind.to_lowercase());
        let resource = ApiResource { api_version: text(&object["apiVersion"]), group, version, kind, plural };
        let api = match &object["metadata"]["namespace"] {
            Value::String(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            _ => Api::all_with(self.client.clone(), &resource),
        };
        (api, text(&object["metadata"]["name"]))
    }

    async fn apply(&self, object: Value) {
        let (api, name) = self.api(&object);
        api.patch(&name, &PatchParams::apply("svc-agent-test").force(), &Patch::Apply(&object)).await.unwrap();
    }

    async fn delete(&self, object: &Value) {
        let (api, name) = self.api(object);
        api.delete(&name, &DeleteParams::background()).await.unwrap();
    }

    async fn fresh(&self) -> State {
        let services = ListParams::default().labels("!service.kubernetes.io/service-proxy-name");
        let slices = ListParams::default().labels("!service.kubernetes.io/headless");
        let services = Api::<core::Service>::all(self.client.clone()).list(&services).await.unwrap().items;
        let slices = Api::<discovery::EndpointSlice>::all(self.client.clone()).list(&slices).await.unwrap().items;
        let node = Api::<core::Node>::all(self.client.clone()).get_opt(&self.name).await.unwrap();
        State::of(&services, &slices, node.as_ref())
    }

    /// Others may change objects too, so what is expected is asked for again and again.
    async fn settle(&self, follower: &mut Follower) {
        let begin = std::time::Instant::now();
        while !follower.reach(&self.fresh().await, Duration::from_secs(1)).await {
            assert!(begin.elapsed() < PATIENCE, "the index does not become what a fresh list gives");
        }
    }

    fn object(&self, api_version: &str, kind: &str, name: &str, body: Value) -> Value {
        let mut object = json!({
            "apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": self.name},
        });
        for (key, value) in body.as_object().unwrap() {
            match key.as_str() {
                "labels" => object["metadata"]["labels"] = value.clone(),
                _ => object[key] = value.clone(),
            }
        }
        object
    }

    async fn follow_changes(&self) {
        let node = |zone: &str| {
            let labels = json!({"topology.kubernetes.io/zone": zone});
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name, "labels": labels}})
        };
        let service = |labels: Value, port: u16| {
            self.object("v1", "Service", "web", json!({"labels": labels, "spec": {"ports": [{"port": port}]}}))
        };
        let slice = |service: &str, address: &str| {
            let labels = json!({"kubernetes.io/service-name": service});
            let body = json!({
                "labels": labels, "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": [{"addresses": [address]}],
            });
            self.object("discovery.k8s.io/v1", "EndpointSlice", "web-1", body)
        };
        self.apply(node("zone-a")).await;
        self.apply(service(json!({}), 80)).await;
        self.apply(slice("web", "10.250.0.1")).await;
        let mut follower = Follower::start_with(self.client.clone(), &self.name);
        self.settle(&mut follower).await;
        for object in [
            service(json!({}), 81),
            service(json!({"service.kubernetes.io/service-proxy-name": "other"}), 81),
            service(json!({}), 82),
            slice("web", "10.250.0.2"),
            slice("elsewhere", "10.250.0.2"),
            node("zone-b"),
        ] {
            self.apply(object).await;
            self.settle(&mut follower).await;
        }
        for object in [slice("elsewhere", "10.250.0.2"), service(json!({}), 82), node("zone-b")] {
            self.delete(&object).await;
        }
        self.settle(&mut follower).await;
    }
}

#[tokio::test]
async fn follows_a_real_api_server() {
    let (given, assets) = (std::env::var_os("KUBECONFIG_TEST"), std::env::var_os("KUBEBUILDER_ASSETS"));
    let (control_plane, kubeconfig) = match (given, assets) {
        (Some(kubeconfig), _) => (None, kubeconfig.into()),
        (None, Some(assets)) => {
            let control_plane = ControlPlane::start(Path::new(&assets)).await;
            let kubeconfig = control_plane.kubeconfig();
            (Some(control_plane), kubeconfig)
        }
        (None, None) => {
            eprintln!(
                "skipped: set KUBECONFIG_TEST to a kubeconfig, or KUBEBUILDER_ASSETS to a folder with kube-apiserver"
            );
            return;
        }
    };
    let client = kubernetes::connect(Some(&kubeconfig), &ApiRequests::default()).await.unwrap();
    let cluster = Cluster { client, name: format!("svc-agent-test-{}", std::process::id()) };
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": cluster.name}});
    cluster.apply(namespace.clone()).await;
    let outcome = std::panic::AssertUnwindSafe(cluster.follow_changes()).catch_unwind().await;
    cluster.delete(&namespace).await;
    drop(control_plane);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}
