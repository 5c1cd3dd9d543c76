//! A directory of Kubernetes manifests as `svc-agent run --manifests` follows it: Services, EndpointSlices and Nodes, one file
//! each, always replaced as a whole by renaming, so that no reader ever sees half a file.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::Machine;

#[derive(Clone, Debug)]
pub struct Manifests {
    directory: PathBuf,
}

/// One port of a Service and of its slices.
#[derive(Clone, Debug)]
pub struct Port {
    pub name: String,
    pub protocol: &'static str,
    /// Port of the Service
    pub port: u16,
    /// Port of the pods
    pub target: u16,
}

impl Port {
    pub fn tcp(name: &str, port: u16, target: u16) -> Self {
        Self { name: name.to_owned(), protocol: "TCP", port, target }
    }

    pub fn udp(name: &str, port: u16, target: u16) -> Self {
        Self { name: name.to_owned(), protocol: "UDP", port, target }
    }
}

/// A Service together with what its slices need to know.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    pub namespace: String,
    pub name: String,
    /// Empty: a headless Service
    pub cluster_ips: Vec<IpAddr>,
    pub ports: Vec<Port>,
    /// Fields that go into `spec` as they are
    pub extra: Value,
    /// Of the Service
    pub annotations: Value,
    /// Of its slices
    pub slice_annotations: Value,
    /// At the end of the slices' names; another one makes more slices
    pub slice_suffix: String,
}

impl ServiceSpec {
    pub fn new(name: &str) -> Self {
        Self {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            cluster_ips: Vec::new(),
            ports: Vec::new(),
            extra: json!({}),
            annotations: json!({}),
            slice_annotations: json!({}),
            slice_suffix: String::new(),
        }
    }

    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = namespace.to_owned();
        self
    }

    pub fn cluster_ip(mut self, address: impl Into<IpAddr>) -> Self {
        self.cluster_ips.push(address.into());
        self
    }

    pub fn port(mut self, port: Port) -> Self {
        self.ports.push(port);
        self
    }

    /// More fields of `spec`, for example `json!({"sessionAffinity": "ClientIP"})`.
    pub fn extra(mut self, fields: Value) -> Self {
        self.extra = fields;
        self
    }

    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations[key] = json!(value);
        self
    }

    /// The same Service for other slices of it, each with this annotation.
    pub fn slices(mut self, suffix: &str, annotation: (&str, &str)) -> Self {
        self.slice_suffix = format!("-{suffix}");
        self.slice_annotations[annotation.0] = json!(annotation.1);
        self
    }

    fn to_json(&self) -> Value {
        // A port that is called by name in the Service is looked up in the slices: the usual way with nginx charts.
        let ports = self.ports.iter().map(
            |port| json!({"name": port.name, "protocol": port.protocol, "port": port.port, "targetPort": port.name}),
        );
        let mut addresses: Vec<String> = self.cluster_ips.iter().map(IpAddr::to_string).collect();
        if addresses.is_empty() {
            addresses.push("None".to_owned());
        }
        let families = self.cluster_ips.iter().map(|address| if address.is_ipv4() { "IPv4" } else { "IPv6" });
        let mut service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, "namespace": self.namespace, "annotations": self.annotations},
            "spec": {
                "type": "ClusterIP",
                "clusterIP": addresses[0],
                "clusterIPs": addresses,
                "ipFamilies": families.collect::<Vec<_>>(),
                "selector": {"app": self.name},
                "ports": ports.collect::<Vec<_>>(),
            },
        });
        if let (Some(spec), Some(extra)) = (service["spec"].as_object_mut(), self.extra.as_object()) {
            spec.extend(extra.clone());
        }
        service
    }

    fn slice_to_json(&self, family: &str, endpoints: &[Endpoint]) -> Value {
        let wanted = |address: &IpAddr| address.is_ipv4() == (family == "IPv4");
        let endpoints = endpoints.iter().filter(|endpoint| wanted(&endpoint.address)).map(Endpoint::to_json);
        let ports =
            self.ports.iter().map(|port| json!({"name": port.name, "protocol": port.protocol, "port": port.target}));
        let mut labels = json!({"kubernetes.io/service-name": self.name});
        if self.cluster_ips.is_empty() {
            labels["service.kubernetes.io/headless"] = json!("");
        }
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": self.slice_name(family),
                "namespace": self.namespace,
                "labels": labels,
                "annotations": self.slice_annotations,
            },
            "addressType": family,
            "ports": ports.collect::<Vec<_>>(),
            "endpoints": endpoints.collect::<Vec<_>>(),
        })
    }

    fn slice_name(&self, family: &str) -> String {
        format!("{}-{}{}", self.name, family.to_lowercase(), self.slice_suffix)
    }
}

/// One endpoint as it stands in a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: IpAddr,
    pub node: Option<String>,
    pub name: Option<String>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

impl Endpoint {
    pub fn at(address: impl Into<IpAddr>) -> Self {
        let address = address.into();
        Self { address, node: None, name: None, ready: true, serving: true, terminating: false }
    }

    /// Both addresses of a machine.
    pub fn both(machine: &Machine) -> [Self; 2] {
        [IpAddr::from(machine.ipv4()), IpAddr::from(machine.ipv6())].map(|address| Self {
            node: machine.node().map(str::to_owned),
            name: Some(machine.name().to_owned()),
            ..Self::at(address)
        })
    }

    pub fn terminating(mut self, serving: bool) -> Self {
        (self.ready, self.serving, self.terminating) = (false, serving, true);
        self
    }

    fn to_json(&self) -> Value {
        let mut endpoint = json!({
            "addresses": [self.address],
            "conditions": {"ready": self.ready, "serving": self.serving, "terminating": self.terminating},
        });
        if let Some(node) = &self.node {
            endpoint["nodeName"] = json!(node);
        }
        if let Some(name) = &self.name {
            endpoint["targetRef"] = json!({"kind": "Pod", "name": name, "namespace": "default"});
        }
        endpoint
    }
}

impl Manifests {
    pub fn in_directory(directory: impl Into<PathBuf>) -> Result<Self> {
        let directory = directory.into();
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(Self { directory })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes the Service. Its slices are written by [`Manifests::endpoints`].
    pub fn service(&self, service: &ServiceSpec) -> Result<()> {
        self.apply(&service.to_json())
    }

    /// Makes `endpoints` the whole set of the Service, one slice per address family; none at all is a scale to zero.
    pub fn endpoints(&self, service: &ServiceSpec, endpoints: &[Endpoint]) -> Result<()> {
        ["IPv4", "IPv6"].iter().try_for_each(|family| self.apply(&service.slice_to_json(family, endpoints)))
    }

    /// Both addresses of each of these machines become the Service's endpoints.
    pub fn machines<'a>(&self, service: &ServiceSpec, machines: impl IntoIterator<Item = &'a Machine>) -> Result<()> {
        let endpoints: Vec<Endpoint> = machines.into_iter().flat_map(Endpoint::both).collect();
        self.endpoints(service, &endpoints)
    }

    pub fn node(&self, node: &Machine, labels: &Value) -> Result<()> {
        let mut all = json!({"kubernetes.io/hostname": node.name()});
        if let (Some(all), Some(labels)) = (all.as_object_mut(), labels.as_object()) {
            all.extend(labels.clone());
        }
        self.apply(&json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": node.name(), "labels": all},
            "status": {"addresses": [
                {"type": "InternalIP", "address": node.ipv4()},
                {"type": "InternalIP", "address": node.ipv6()},
                {"type": "Hostname", "address": node.name()},
            ]},
        }))
    }

    pub fn delete_service(&self, service: &ServiceSpec) -> Result<()> {
        self.delete("Service", &service.namespace, &service.name)?;
        ["IPv4", "IPv6"]
            .iter()
            .try_for_each(|family| self.delete("EndpointSlice", &service.namespace, &service.slice_name(family)))
    }

    /// Creates or replaces any object: a whole Kubernetes object as JSON.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let field = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let path = self.path(&field("/kind"), &field("/metadata/namespace"), &field("/metadata/name"));
        let text = serde_saphyr::to_string(object).context("cannot write the object as YAML")?;
        // The leading dot and the extension keep readers of *.yaml away until the file is whole.
        let temporary = path.with_file_name(format!(".{}.tmp", file_name(&path)));
        fs::write(&temporary, text).with_context(|| format!("cannot write {}", temporary.display()))?;
        fs::rename(&temporary, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    pub fn delete(&self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        let path = self.path(kind, namespace, name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot delete {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    fn path(&self, kind: &str, namespace: &str, name: &str) -> PathBuf {
        self.directory.join(format!("{}-{namespace}-{name}.yaml", kind.to_lowercase()))
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
