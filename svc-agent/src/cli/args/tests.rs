//! Flags, variables and files end up in one configuration.

use clap::Parser;

use super::*;
use crate::cli::{Cli, Command};

fn parse(flags: &[&str]) -> RunArgs {
    match Cli::try_parse_from(["svc-agent", "run"].iter().chain(flags)).unwrap().command {
        Command::Run(args) => *args,
        other => panic!("{other:?}"),
    }
}

fn file(content: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    file
}

fn with_file(content: &str, flags: &[&str]) -> Result<RunConfig, ArgsError> {
    let file = file(content);
    let path = file.path().to_str().unwrap();
    parse(&[&["--config", path], flags].concat()).resolve()
}

#[test]
fn the_command_line_is_consistent() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

#[test]
fn nothing_said_means_the_documented_defaults() {
    let config = parse(&[]).resolve().unwrap();
    assert_eq!(config.source, SourceChoice::Kubernetes(None));
    assert_eq!(config.metrics_address, Some("127.0.0.1:10249".parse().unwrap()));
    assert_eq!(config.healthz_address, Some("0.0.0.0:10256".parse().unwrap()));
    assert_eq!(config.datapath.socket_lb, SocketLb::All);
    assert_eq!(config.datapath.bpf_root, Path::new("/sys/fs/bpf"));
    assert_eq!(config.datapath.selection.uplinks, Uplinks::DefaultRoute);
    assert_eq!(config.node_name, config.node_name.to_lowercase());
    assert!(!config.datapath.trace_packets && config.datapath.capacities == Capacities::default());
}

#[test]
fn lists_may_be_repeated_or_separated_by_commas() {
    let config = parse(&["--cluster-cidr=10.244.0.0/16,fd00:10::/56", "--cluster-cidr", "10.1.0.0/16"]).resolve();
    let ranges = config.unwrap().datapath.cluster_ranges.unwrap();
    let cidrs: Vec<_> = ranges.iter().map(ToString::to_string).collect();
    assert_eq!(cidrs, ["10.244.0.0/16", "fd00:10::/56", "10.1.0.0/16"]);
    for content in ["uplinks: eth0, bond*", "uplinks:\n- eth0\n- bond*"] {
        let config = with_file(content, &[]).unwrap();
        let expected = Uplinks::Named(vec!["eth0".parse().unwrap(), "bond*".parse().unwrap()]);
        assert_eq!(config.datapath.selection.uplinks, expected, "{content}");
    }
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let content = "node-name: from-file\nsocket-lb: host\nlog-format: json\nmetrics-bind-address: 'off'\n\
                   trace-packets: true\nflow-table-size: 4096\nmanifests: /from/file\n";
    let config = with_file(content, &["--socket-lb=off", "--kubeconfig=/from/flag"]).unwrap();
    assert_eq!((config.node_name.as_str(), config.log_format), ("from-file", LogFormat::Json));
    assert_eq!(config.datapath.socket_lb, SocketLb::Off);
    assert_eq!((config.metrics_address, config.datapath.trace_packets), (None, true));
    assert_eq!(config.datapath.capacities.flows, Some(4096));
    assert_eq!(config.source, SourceChoice::Kubernetes(Some("/from/flag".into())));
}

#[test]
fn silent_connections_are_forgotten_as_by_kube_proxy_unless_told_otherwise() {
    assert_eq!(parse(&[]).resolve().unwrap().timeouts, Timeouts::default());
    let content = "conntrack-tcp-timeout-established: 0\nconntrack-tcp-timeout-close-wait: 10m\n";
    let config = with_file(content, &["--conntrack-tcp-timeout-close-wait=2h0m0s"]).unwrap();
    assert_eq!(config.timeouts, Timeouts { established: None, half_closed: Some(7200) });
}

#[test]
fn pods_are_known_by_networks_or_interfaces() {
    let ranges = |flags: &[&str]| parse(flags).resolve().unwrap().datapath.cluster_ranges;
    let told = "--cluster-cidr=10.244.0.0/16";
    let networks: Vec<IpNet> = vec!["10.244.0.0/16".parse().unwrap()];
    assert_eq!(ranges(&[]), Some(Vec::new()));
    assert_eq!(ranges(&[told]), Some(networks.clone()));
    assert_eq!(ranges(&[told, "--detect-local-mode=ClusterCIDR"]), Some(networks));
    assert_eq!(ranges(&[told, "--detect-local-mode=InterfaceNamePrefix"]), Some(Vec::new()));
    assert_eq!(ranges(&[told, "--detect-local-mode=BridgeInterface"]), Some(Vec::new()));
    assert_eq!(ranges(&[told, "--detect-local-mode=NodeCIDR"]), None, "they come with the Node object");
    let config = with_file("detect-local-mode: NodeCIDR", &[]).unwrap();
    assert_eq!(config.datapath.cluster_ranges, None);
}

#[test]
fn what_cannot_be_meant_is_refused_and_named() {
    let message = |result: Result<RunConfig, ArgsError>| result.unwrap_err().to_string();
    assert!(message(with_file("socket-lbb: all", &[])).contains("socket-lbb"));
    assert!(message(with_file("cluster-cidr: [10.0.0.0/99]", &[])).contains("10.0.0.0/99"));
    assert!(message(with_file("config: other.yaml", &[])).contains("config"));
    assert!(message(with_file("healthz-bind-address: here", &[])).contains("here"));
    assert!(message(parse(&["--manifests=/a", "--kubeconfig=/b"]).resolve()).contains("--manifests"));
    assert!(message(parse(&["--uplinks=a-name-too-long-x"]).resolve()).contains("--uplinks"));
    assert!(message(parse(&["--detect-local-mode=ClusterCIDR"]).resolve()).contains("--cluster-cidr"));
    assert!(message(parse(&["--flow-table-size=0"]).resolve()).contains("--flow-table-size"));
    assert!(message(parse(&["--config=/does/not/exist"]).resolve()).contains("/does/not/exist"));
    assert!(with_file("# nothing said\n", &[]).is_ok());
}
