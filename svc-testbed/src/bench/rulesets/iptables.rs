//! The chains KUBE-* as the iptables mode of kube-proxy writes them: one list of all services that is walked from its beginning,
//! then a chain for each service port that throws dice for a chain for each endpoint.

use std::fmt::Write as _;

use super::{ServicePort, label};

pub fn iptables(services: &[ServicePort], cluster_cidr: &str) -> String {
    let mut rules = filter(services);
    rules.push_str(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
         :KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n",
    );
    let served = || services.iter().enumerate().filter(|(_, service)| !service.endpoints.is_empty());
    for (number, service) in served() {
        let _ = writeln!(rules, ":{} - [0:0]", service_chain(number));
        for endpoint in 0..service.endpoints.len() {
            let _ = writeln!(rules, ":{} - [0:0]", endpoint_chain(number, endpoint));
        }
    }
    rules.push_str(
        "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n",
    );
    for (number, service) in served() {
        let _ = add_service(&mut rules, number, service, cluster_cidr);
    }
    rules.push_str(
        "-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" \
         -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT\n",
    );
    rules
}

fn filter(services: &[ServicePort]) -> String {
    let mut rules = "\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
"
    .to_owned();
    for service in services.iter().filter(|service| service.endpoints.is_empty()) {
        let ServicePort { name, protocol, address, port, .. } = service;
        let _ = writeln!(
            rules,
            "-A KUBE-SERVICES -m comment --comment \"{name} has no endpoints\" -m {protocol} -p {protocol} -d {address} \
             --dport {port} -j REJECT"
        );
    }
    rules.push_str("COMMIT\n");
    rules
}

fn add_service(rules: &mut String, number: usize, service: &ServicePort, cluster_cidr: &str) -> std::fmt::Result {
    let ServicePort { name, protocol, address, port, endpoints } = service;
    let chain = service_chain(number);
    let to_service = format!("-m {protocol} -p {protocol} -d {address} --dport {port}");
    writeln!(rules, "-A KUBE-SERVICES -m comment --comment \"{name} cluster IP\" {to_service} -j {chain}")?;
    writeln!(
        rules,
        "-A {chain} -m comment --comment \"{name} cluster IP\" {to_service} ! -s {cluster_cidr} -j KUBE-MARK-MASQ"
    )?;
    for (place, endpoint) in endpoints.iter().enumerate() {
        let left = endpoints.len() - place;
        let dice = match left {
            1 => String::new(),
            left => format!("-m statistic --mode random --probability {:.10} ", 1.0 / left as f64),
        };
        let target = endpoint_chain(number, place);
        writeln!(rules, "-A {chain} -m comment --comment \"{name} -> {endpoint}\" {dice}-j {target}")?;
        writeln!(rules, "-A {target} -m comment --comment {name} -s {} -j KUBE-MARK-MASQ", endpoint.ip())?;
        writeln!(
            rules,
            "-A {target} -m comment --comment {name} -m {protocol} -p {protocol} -j DNAT --to-destination {endpoint}"
        )?;
    }
    Ok(())
}

fn service_chain(number: usize) -> String {
    format!("KUBE-SVC-{:016X}", label(number, 0))
}

fn endpoint_chain(number: usize, endpoint: usize) -> String {
    format!("KUBE-SEP-{:016X}", label(number, endpoint + 1))
}
