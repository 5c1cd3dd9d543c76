//! The rules kube-proxy 1.36 would program for given Services, as text for `nft -f` and `iptables-restore`: what we are compared
//! with. Pure; only what a ClusterIP Service of the cluster policy gets, IPv4.

mod iptables;
mod nftables;

use std::net::{Ipv4Addr, SocketAddrV4};

pub use iptables::iptables;
pub use nftables::nftables;

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// namespace/name:port
    pub name: String,
    /// `tcp` or `udp`
    pub protocol: &'static str,
    pub address: Ipv4Addr,
    pub port: u16,
    pub endpoints: Vec<SocketAddrV4>,
}

/// kube-proxy gives its chains hashed names; only their being different matters here.
fn label(service: usize, endpoint: usize) -> u64 {
    let mixed = (service as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ (endpoint as u64).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed.wrapping_mul(0xc4ce_b9fe_1a85_ec53)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    use super::*;
    use crate::netns::Namespace;

    fn services(count: u32) -> Vec<ServicePort> {
        (0..count)
            .map(|number| ServicePort {
                name: format!("default/service-{number}:http"),
                protocol: if number % 3 == 2 { "udp" } else { "tcp" },
                address: Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 1).to_bits() + number),
                port: 80,
                endpoints: (0..number % 4)
                    .map(|endpoint| SocketAddrV4::new(Ipv4Addr::new(10, 244, endpoint as u8, number as u8), 8080))
                    .collect(),
            })
            .collect()
    }

    #[test]
    fn chains_have_names_of_their_own() {
        let mut labels: Vec<u64> =
            (0..5_000).flat_map(|service| (0..3).map(move |endpoint| label(service, endpoint))).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), 15_000);
    }

    #[test]
    fn shape_of_nftables_rules() {
        let rules = nftables(&services(4), "10.244.0.0/16");
        // Services 0 and 4k have no endpoints.
        assert_eq!(rules.matches("numgen random mod").count(), 3);
        assert_eq!(rules.matches(" dnat to ").count(), 6);
        assert!(
            rules.contains(
                "add element ip kube-proxy no-endpoint-services { 10.96.0.1 . tcp . 80 : goto reject-chain }"
            )
        );
        assert!(rules.contains("numgen random mod 3 vmap { 0 : goto endpoint-"));
        assert!(rules.contains("add element ip kube-proxy service-ips { 10.96.0.3 . udp . 80 : goto service-"));
    }

    #[test]
    fn shape_of_iptables_rules() {
        let rules = iptables(&services(4), "10.244.0.0/16");
        assert_eq!(rules.matches("-j DNAT").count(), 6);
        assert!(rules.contains("--mode random --probability 0.3333333333 -j KUBE-SEP-"));
        assert!(rules.contains("--mode random --probability 0.5000000000 -j KUBE-SEP-"));
        assert!(rules.contains("-A KUBE-SERVICES -m comment --comment \"default/service-0:http has no endpoints\""));
        let last = rules.lines().rfind(|line| line.starts_with("-A KUBE-SERVICES")).unwrap();
        assert!(last.contains("this must be the last rule"), "{last}");
    }

    /// The kernel's own tools accept the rules; nothing is changed outside a namespace of the test.
    #[test]
    fn tools_accept_the_rules() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: namespaces need root");
            return;
        }
        let name = format!("svc-rules-{}", std::process::id());
        let namespace = Namespace::create(&name).unwrap();
        let services = services(200);
        for (program, arguments, rules) in [
            ("nft", &["-f", "-"][..], nftables(&services, "10.244.0.0/16")),
            ("iptables-restore", &["--test"], iptables(&services, "10.244.0.0/16")),
        ] {
            feed(&namespace, program, arguments, &rules);
        }
        drop(namespace);
        Namespace::delete(&name);
    }

    fn feed(namespace: &Namespace, program: &str, arguments: &[&str], rules: &str) {
        let mut command: Command = namespace.command(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                eprintln!("skipped: {program}: {error}");
                return;
            }
        };
        child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
