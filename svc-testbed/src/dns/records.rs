//! Names and addresses read from a manifests directory, and read again whenever it changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::PathBuf,
    time::SystemTime,
};

use anyhow::{Context, Result};
use serde::Deserialize;

/// The directory as it was when it was last read: names, sizes and times of its files.
type Fingerprint = BTreeSet<(PathBuf, u64, Option<SystemTime>)>;

pub struct Records {
    directory: PathBuf,
    read: Fingerprint,
    addresses: BTreeMap<String, BTreeSet<IpAddr>>,
}

#[derive(Deserialize)]
struct Object {
    kind: String,
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default, rename = "clusterIPs")]
    cluster_ips: Vec<String>,
}

#[derive(Deserialize)]
struct Endpoint {
    addresses: Vec<IpAddr>,
    #[serde(default)]
    conditions: Conditions,
}

#[derive(Default, Deserialize)]
struct Conditions {
    ready: Option<bool>,
}

impl Records {
    pub fn of(directory: PathBuf) -> Self {
        Self { directory, read: Fingerprint::new(), addresses: BTreeMap::new() }
    }

    /// Addresses of a name, of both families; `None` if there is no such name.
    pub fn lookup(&mut self, name: &str) -> Result<Option<BTreeSet<IpAddr>>> {
        self.refresh()?;
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let Some(name) = name.strip_suffix(".svc.cluster.local") else { return Ok(None) };
        Ok(self.addresses.get(name).cloned())
    }

    fn refresh(&mut self) -> Result<()> {
        let now = self.fingerprint()?;
        if now == self.read {
            return Ok(());
        }
        let mut services = Vec::new();
        let mut endpoints: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
        for (path, ..) in &now {
            let Ok(text) = fs::read_to_string(path) else { continue };
            let object: Object =
                serde_saphyr::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
            let namespace = &object.metadata.namespace;
            match object.kind.as_str() {
                "Service" => services.push((format!("{}.{namespace}", object.metadata.name), object.spec.cluster_ips)),
                "EndpointSlice" => {
                    let Some(service) = object.metadata.labels.get("kubernetes.io/service-name") else { continue };
                    let ready =
                        object.endpoints.into_iter().filter(|endpoint| endpoint.conditions.ready != Some(false));
                    let addresses = endpoints.entry(format!("{service}.{namespace}")).or_default();
                    addresses.extend(ready.filter_map(|endpoint| endpoint.addresses.first().copied()));
                }
                _ => {}
            }
        }
        self.addresses = services
            .into_iter()
            .map(|(name, cluster_ips)| {
                let own: BTreeSet<IpAddr> = cluster_ips.iter().filter_map(|address| address.parse().ok()).collect();
                let addresses = if own.is_empty() { endpoints.remove(&name).unwrap_or_default() } else { own };
                (name, addresses)
            })
            .collect();
        self.read = now;
        Ok(())
    }

    fn fingerprint(&self) -> Result<Fingerprint> {
        let entries = fs::read_dir(&self.directory);
        let entries = entries.with_context(|| format!("cannot read {}", self.directory.display()))?;
        let files = entries.flatten().filter(|entry| entry.path().extension().is_some_and(|suffix| suffix == "yaml"));
        Ok(files
            .filter_map(|entry| {
                let metadata = entry.metadata().ok()?;
                Some((entry.path(), metadata.len(), metadata.modified().ok()))
            })
            .collect())
    }
}
