//! What `svc-agent run` can be told: one declaration serves flags, `SVC_AGENT_*` variables and the configuration file,
//! in this order of precedence. [`RunArgs::resolve`] fills in defaults and checks. Starts nothing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

use super::timeout::Timeout;
use crate::datapath::{
    Capacities, DEFAULT_POD_INTERFACES, Forwarding, Options, Pattern, PatternError, Selection, SocketLb, Uplinks, Xdp,
};
use crate::model::LoadBalancing;
use crate::sweep::Timeouts;

const DEFAULT_BPF_ROOT: &str = "/sys/fs/bpf";
/// As kube-proxy's.
const DEFAULT_METRICS_ADDRESS: &str = "127.0.0.1:10249";
const DEFAULT_HEALTHZ_ADDRESS: &str = "0.0.0.0:10256";

#[derive(thiserror::Error, Debug)]
pub enum ArgsError {
    #[error("cannot read the configuration file {}: {error}", .path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("configuration file {}: {error}", .path.display())]
    Invalid { path: PathBuf, error: Box<serde_saphyr::Error> },
    #[error("--manifests and --kubeconfig exclude each other: the cluster is followed from one place")]
    TwoSources,
    #[error("--{name}: {error}")]
    Pattern { name: &'static str, error: PatternError },
    #[error("--detect-local-mode=ClusterCIDR needs --cluster-cidr, with the networks of the pods")]
    NoClusterCidr,
    #[error("--flow-table-size must be at least 1")]
    NoFlows,
    #[error("the host name is empty: name the node with --node-name")]
    NoNodeName,
}

#[derive(Args, Clone, Debug)]
pub struct CleanupArgs {
    /// Mount point of the BPF file system the agent works with
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPF_ROOT, env = "SVC_AGENT_BPF_ROOT")]
    pub bpf_root: PathBuf,
    /// Also while an agent runs; it translates nothing any more
    #[arg(long)]
    pub force: bool,
}

/// An address to listen on, or `off`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BindAddress(pub Option<SocketAddr>);

impl FromStr for BindAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text == "off" {
            return Ok(Self(None));
        }
        text.parse().map(|address| Self(Some(address))).map_err(|_| format!("{text:?} is not IP:PORT nor off"))
    }
}

impl<'de> Deserialize<'de> for BindAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Which clients that come over an uplink are pods of the cluster, and keep their address. The names are kube-proxy's. What
/// comes in by a pod's own interface is a pod's in every mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Deserialize)]
pub enum DetectLocalMode {
    /// Those in the networks of --cluster-cidr
    #[value(name = "ClusterCIDR")]
    #[serde(rename = "ClusterCIDR")]
    ClusterCidr,
    /// Those in the networks of the Node object, spec.podCIDRs
    #[value(name = "NodeCIDR")]
    #[serde(rename = "NodeCIDR")]
    NodeCidr,
    /// None: pods are known by their interfaces, see --pod-interfaces
    #[value(name = "BridgeInterface")]
    BridgeInterface,
    /// The same
    #[value(name = "InterfaceNamePrefix")]
    InterfaceNamePrefix,
}

/// A list: repeated or comma-separated as a flag, a sequence or comma-separated text in the file.
fn list<'de, D: Deserializer<'de>, T: FromStr<Err: std::fmt::Display>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    let texts = match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(text) => text.split(',').map(|part| part.trim().to_owned()).collect(),
        OneOrMany::Many(texts) => texts,
    };
    let parse = |text: String| text.parse().map_err(|error| serde::de::Error::custom(format!("{text:?}: {error}")));
    texts.into_iter().map(parse).collect::<Result<_, _>>().map(Some)
}

#[derive(Args, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RunArgs {
    /// YAML file with the same names as these flags; a flag or variable wins over it
    #[arg(long, value_name = "FILE", env = "SVC_AGENT_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Name of this node's Node object [default: the host name in lower case]
    #[arg(long, value_name = "NAME", env = "SVC_AGENT_NODE_NAME")]
    pub node_name: Option<String>,
    /// How to reach the API server [default: as a pod, by its service account]
    #[arg(long, value_name = "FILE", env = "SVC_AGENT_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Follow the YAML files in this directory instead of an API server
    #[arg(long, value_name = "DIR", env = "SVC_AGENT_MANIFESTS")]
    pub manifests: Option<PathBuf>,
    /// Networks of the pods, of both families: clients in them keep their address when they come over an uplink
    #[arg(long, value_name = "CIDR", value_delimiter = ',', env = "SVC_AGENT_CLUSTER_CIDR")]
    #[serde(deserialize_with = "list")]
    pub cluster_cidr: Option<Vec<IpNet>>,
    /// Which clients are pods [default: ClusterCIDR if --cluster-cidr is given, else InterfaceNamePrefix]
    #[arg(long, value_enum, env = "SVC_AGENT_DETECT_LOCAL_MODE")]
    pub detect_local_mode: Option<DetectLocalMode>,
    /// Host sides of the pods' interfaces [default: veth*,cali*,eni*,azv*,gke*]
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', env = "SVC_AGENT_POD_INTERFACES")]
    #[serde(deserialize_with = "list")]
    pub pod_interfaces: Option<Vec<String>>,
    /// Interfaces to other machines [default: those of the default routes]
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', env = "SVC_AGENT_UPLINKS")]
    #[serde(deserialize_with = "list")]
    pub uplinks: Option<Vec<String>>,
    /// Whose connections are translated in connect() [default: all]
    #[arg(long, value_enum, env = "SVC_AGENT_SOCKET_LB")]
    pub socket_lb: Option<SocketLb>,
    /// How Services choose endpoints that do not say so in annotation svc-ebpf.io/load-balancing [default: random]
    #[arg(long, value_enum, env = "SVC_AGENT_LOAD_BALANCING")]
    pub load_balancing: Option<LoadBalancing>,
    /// How translated packets leave: through the node's stack, or straight to the pod or next hop, past its netfilter rules
    /// [default: stack]
    #[arg(long, value_enum, env = "SVC_AGENT_FORWARDING")]
    pub forwarding: Option<Forwarding>,
    /// XDP on uplinks: connections that enter the node by an uplink and leave it by one pass by its stack and netfilter
    /// rules [default: off]
    #[arg(long, value_enum, env = "SVC_AGENT_XDP")]
    pub xdp: Option<Xdp>,
    /// Mount point of the BPF file system, or a directory below it [default: /sys/fs/bpf]
    #[arg(long, value_name = "DIR", env = "SVC_AGENT_BPF_ROOT")]
    pub bpf_root: Option<PathBuf>,
    /// The cgroup v2 hierarchy the socket hooks are attached to [default: where it is mounted]
    #[arg(long, value_name = "DIR", env = "SVC_AGENT_CGROUP_ROOT")]
    pub cgroup_root: Option<PathBuf>,
    /// Where /metrics and /proxyMode are served, or off [default: 127.0.0.1:10249]
    #[arg(long, value_name = "IP:PORT", env = "SVC_AGENT_METRICS_BIND_ADDRESS")]
    pub metrics_bind_address: Option<BindAddress>,
    /// Where /healthz, /livez and /readyz are served, or off [default: 0.0.0.0:10256]
    #[arg(long, value_name = "IP:PORT", env = "SVC_AGENT_HEALTHZ_BIND_ADDRESS")]
    pub healthz_bind_address: Option<BindAddress>,
    /// Export the traffic of every single service, one set of series each
    #[arg(long, num_args = 0..=1, default_missing_value = "true", env = "SVC_AGENT_SERVICE_METRICS")]
    pub service_metrics: Option<bool>,
    /// How log lines look [default: text]
    #[arg(long, value_enum, env = "SVC_AGENT_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Log each packet's way through the programs (log target `packet`); slow
    #[arg(long, num_args = 0..=1, default_missing_value = "true", env = "SVC_AGENT_TRACE_PACKETS")]
    pub trace_packets: Option<bool>,
    /// Connections remembered in each address family, oldest unused ones forgotten first [default: by memory]
    #[arg(long, value_name = "COUNT", env = "SVC_AGENT_FLOW_TABLE_SIZE")]
    pub flow_table_size: Option<u32>,
    /// After which silence an established TCP connection is forgotten; 0: never [default: 24h]
    #[arg(long, value_name = "DURATION", env = "SVC_AGENT_CONNTRACK_TCP_TIMEOUT_ESTABLISHED")]
    pub conntrack_tcp_timeout_established: Option<Timeout>,
    /// After which silence one is forgotten that one side has closed; 0: never [default: 1h]
    #[arg(long, value_name = "DURATION", env = "SVC_AGENT_CONNTRACK_TCP_TIMEOUT_CLOSE_WAIT")]
    pub conntrack_tcp_timeout_close_wait: Option<Timeout>,
}

/// Where objects come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SourceChoice {
    /// `None`: as a pod, by its service account.
    Kubernetes(Option<PathBuf>),
    Manifests(PathBuf),
}

/// Everything decided.
#[derive(Clone, Debug)]
pub struct RunConfig {
    pub node_name: String,
    pub source: SourceChoice,
    /// Of Services that do not ask for another.
    pub load_balancing: LoadBalancing,
    pub datapath: Options,
    pub metrics_address: Option<SocketAddr>,
    pub healthz_address: Option<SocketAddr>,
    pub service_metrics: bool,
    pub log_format: LogFormat,
    pub timeouts: Timeouts,
}

impl RunArgs {
    /// Reads the configuration file, if one is named, and fills in what is still open.
    pub fn resolve(self) -> Result<RunConfig, ArgsError> {
        let args = match &self.config {
            Some(path) => {
                let file = read_file(path)?;
                self.or(file)
            }
            None => self,
        };
        args.complete()
    }

    fn or(self, file: Self) -> Self {
        Self {
            config: self.config,
            node_name: self.node_name.or(file.node_name),
            // A source given by a flag is not joined by the file's other one.
            kubeconfig: self.kubeconfig.clone().or(if self.manifests.is_none() { file.kubeconfig } else { None }),
            manifests: self.manifests.or(if self.kubeconfig.is_none() { file.manifests } else { None }),
            cluster_cidr: self.cluster_cidr.or(file.cluster_cidr),
            detect_local_mode: self.detect_local_mode.or(file.detect_local_mode),
            pod_interfaces: self.pod_interfaces.or(file.pod_interfaces),
            uplinks: self.uplinks.or(file.uplinks),
            socket_lb: self.socket_lb.or(file.socket_lb),
            load_balancing: self.load_balancing.or(file.load_balancing),
            forwarding: self.forwarding.or(file.forwarding),
            xdp: self.xdp.or(file.xdp),
            bpf_root: self.bpf_root.or(file.bpf_root),
            cgroup_root: self.cgroup_root.or(file.cgroup_root),
            metrics_bind_address: self.metrics_bind_address.or(file.metrics_bind_address),
            healthz_bind_address: self.healthz_bind_address.or(file.healthz_bind_address),
            service_metrics: self.service_metrics.or(file.service_metrics),
            log_format: self.log_format.or(file.log_format),
            trace_packets: self.trace_packets.or(file.trace_packets),
            flow_table_size: self.flow_table_size.or(file.flow_table_size),
            conntrack_tcp_timeout_established: self
                .conntrack_tcp_timeout_established
                .or(file.conntrack_tcp_timeout_established),
            conntrack_tcp_timeout_close_wait: self
                .conntrack_tcp_timeout_close_wait
                .or(file.conntrack_tcp_timeout_close_wait),
        }
    }

    fn complete(self) -> Result<RunConfig, ArgsError> {
        let source = match (self.manifests, self.kubeconfig) {
            (Some(_), Some(_)) => return Err(ArgsError::TwoSources),
            (Some(directory), None) => SourceChoice::Manifests(directory),
            (None, kubeconfig) => SourceChoice::Kubernetes(kubeconfig),
        };
        if self.flow_table_size == Some(0) {
            return Err(ArgsError::NoFlows);
        }
        let cluster_ranges = match (self.detect_local_mode, self.cluster_cidr) {
            (Some(DetectLocalMode::ClusterCidr), None) => return Err(ArgsError::NoClusterCidr),
            (Some(DetectLocalMode::ClusterCidr) | None, Some(networks)) => Some(networks),
            (Some(DetectLocalMode::NodeCidr), _) => None,
            (Some(DetectLocalMode::BridgeInterface | DetectLocalMode::InterfaceNamePrefix), _) | (None, None) => {
                Some(Vec::new())
            }
        };
        let pods = match self.pod_interfaces {
            Some(texts) => parse_patterns("pod-interfaces", texts)?,
            None => parse_patterns("pod-interfaces", DEFAULT_POD_INTERFACES)?,
        };
        let uplinks = match self.uplinks {
            Some(texts) => Uplinks::Named(parse_patterns("uplinks", texts)?),
            None => Uplinks::DefaultRoute,
        };
        let or_default = |asked: Option<Timeout>, default| asked.map_or(default, |Timeout(seconds)| seconds);
        let timeouts = Timeouts::default();
        Ok(RunConfig {
            node_name: self.node_name.map_or_else(host_name, Ok)?,
            source,
            load_balancing: self.load_balancing.unwrap_or_default(),
            datapath: Options {
                bpf_root: self.bpf_root.unwrap_or_else(|| DEFAULT_BPF_ROOT.into()),
                cgroup_root: self.cgroup_root,
                socket_lb: self.socket_lb.unwrap_or_default(),
                forwarding: self.forwarding.unwrap_or_default(),
                xdp: self.xdp.unwrap_or_default(),
                selection: Selection { pods, uplinks },
                cluster_ranges,
                capacities: Capacities { flows: self.flow_table_size },
                trace_packets: self.trace_packets.unwrap_or_default(),
                attach_mode: None,
            },
            metrics_address: address(self.metrics_bind_address, DEFAULT_METRICS_ADDRESS),
            healthz_address: address(self.healthz_bind_address, DEFAULT_HEALTHZ_ADDRESS),
            service_metrics: self.service_metrics.unwrap_or_default(),
            log_format: self.log_format.unwrap_or_default(),
            timeouts: Timeouts {
                established: or_default(self.conntrack_tcp_timeout_established, timeouts.established),
                half_closed: or_default(self.conntrack_tcp_timeout_close_wait, timeouts.half_closed),
            },
        })
    }
}

fn read_file(path: &Path) -> Result<RunArgs, ArgsError> {
    let unreadable = |error| ArgsError::Unreadable { path: path.to_path_buf(), error };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    // A file of comments only is a fine way to say nothing.
    let nothing = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    if nothing {
        return Ok(RunArgs::default());
    }
    let invalid = |error| ArgsError::Invalid { path: path.to_path_buf(), error: Box::new(error) };
    serde_saphyr::from_str(&text).map_err(invalid)
}

fn parse_patterns<T: AsRef<str>>(
    name: &'static str,
    texts: impl IntoIterator<Item = T>,
) -> Result<Vec<Pattern>, ArgsError> {
    let parse = |text: T| text.as_ref().trim().parse().map_err(|error| ArgsError::Pattern { name, error });
    texts.into_iter().map(parse).collect()
}

fn address(asked: Option<BindAddress>, default: &str) -> Option<SocketAddr> {
    asked.map_or_else(|| default.parse().ok(), |BindAddress(address)| address)
}

/// As the kubelet and kube-proxy name a node.
fn host_name() -> Result<String, ArgsError> {
    let name = rustix::system::uname().nodename().to_string_lossy().trim().to_lowercase();
    if name.is_empty() { Err(ArgsError::NoNodeName) } else { Ok(name) }
}

#[cfg(test)]
mod tests;
