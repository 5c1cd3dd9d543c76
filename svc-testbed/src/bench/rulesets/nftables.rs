//! The table `kube-proxy` as its nftables mode writes it: verdict maps from addresses to a chain for each service port, and from
//! there to a chain for each endpoint.

use std::fmt::Write as _;

use super::{ServicePort, label};

const BASE: &str = "\
add table ip kube-proxy { comment \"rules for kube-proxy\" ; }
delete table ip kube-proxy
add table ip kube-proxy { comment \"rules for kube-proxy\" ; }
add set ip kube-proxy cluster-ips { type ipv4_addr ; comment \"Active ClusterIPs\" ; }
add set ip kube-proxy nodeport-ips { type ipv4_addr ; comment \"IPs that accept NodePort traffic\" ; }
add map ip kube-proxy firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy no-endpoint-nodeports { type inet_proto . inet_service : verdict ; }
add map ip kube-proxy no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy service-nodeports { type inet_proto . inet_service : verdict ; }
add chain ip kube-proxy filter-prerouting-pre-dnat { type filter hook prerouting priority -110 ; }
add chain ip kube-proxy filter-output-pre-dnat { type filter hook output priority -110 ; }
add chain ip kube-proxy filter-forward { type filter hook forward priority 0 ; }
add chain ip kube-proxy filter-input { type filter hook input priority 0 ; }
add chain ip kube-proxy filter-output { type filter hook output priority 0 ; }
add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }
add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority 100 ; }
add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100 ; }
add chain ip kube-proxy cluster-ips-check
add chain ip kube-proxy firewall-check
add chain ip kube-proxy mark-for-masquerade
add chain ip kube-proxy masquerading
add chain ip kube-proxy nodeport-endpoints-check
add chain ip kube-proxy reject-chain
add chain ip kube-proxy services
add chain ip kube-proxy service-endpoints-check
add rule ip kube-proxy cluster-ips-check ip daddr @cluster-ips reject
add rule ip kube-proxy filter-prerouting-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-forward ct state new jump service-endpoints-check
add rule ip kube-proxy filter-forward ct state new jump cluster-ips-check
add rule ip kube-proxy filter-input ct state new jump nodeport-endpoints-check
add rule ip kube-proxy filter-input ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-output ct state new jump cluster-ips-check
add rule ip kube-proxy firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips
add rule ip kube-proxy mark-for-masquerade mark set mark or 0x4000
add rule ip kube-proxy masquerading mark and 0x4000 == 0 return
add rule ip kube-proxy masquerading mark set mark xor 0x4000
add rule ip kube-proxy masquerading masquerade fully-random
add rule ip kube-proxy nat-output jump services
add rule ip kube-proxy nat-postrouting jump masquerading
add rule ip kube-proxy nat-prerouting jump services
add rule ip kube-proxy nodeport-endpoints-check ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
add rule ip kube-proxy reject-chain reject
add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
add rule ip kube-proxy services ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
add rule ip kube-proxy service-endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services
";

pub fn nftables(services: &[ServicePort], cluster_cidr: &str) -> String {
    let mut rules = BASE.to_owned();
    // Chains first: an element may only name a chain that exists.
    for (number, service) in services.iter().enumerate().filter(|(_, service)| !service.endpoints.is_empty()) {
        let _ = writeln!(rules, "add chain ip kube-proxy {}", service_chain(number, service));
        for endpoint in 0..service.endpoints.len() {
            let _ = writeln!(rules, "add chain ip kube-proxy {}", endpoint_chain(number, endpoint, service));
        }
    }
    let mut addresses: Vec<_> = services.iter().map(|service| service.address).collect();
    addresses.dedup();
    for address in addresses {
        let _ = writeln!(rules, "add element ip kube-proxy cluster-ips {{ {address} }}");
    }
    for (number, service) in services.iter().enumerate() {
        let _ = add_service(&mut rules, number, service, cluster_cidr);
    }
    rules
}

fn add_service(rules: &mut String, number: usize, service: &ServicePort, cluster_cidr: &str) -> std::fmt::Result {
    let ServicePort { protocol, address, port, endpoints, .. } = service;
    let frontend = format!("{address} . {protocol} . {port}");
    if endpoints.is_empty() {
        return writeln!(rules, "add element ip kube-proxy no-endpoint-services {{ {frontend} : goto reject-chain }}");
    }
    let chain = service_chain(number, service);
    writeln!(rules, "add element ip kube-proxy service-ips {{ {frontend} : goto {chain} }}")?;
    writeln!(
        rules,
        "add rule ip kube-proxy {chain} ip daddr {address} ip saddr != {cluster_cidr} jump mark-for-masquerade"
    )?;
    let choices =
        (0..endpoints.len()).map(|endpoint| format!("{endpoint} : goto {}", endpoint_chain(number, endpoint, service)));
    let choices = choices.collect::<Vec<_>>().join(" , ");
    writeln!(rules, "add rule ip kube-proxy {chain} numgen random mod {} vmap {{ {choices} }}", endpoints.len())?;
    for (place, endpoint) in endpoints.iter().enumerate() {
        let chain = endpoint_chain(number, place, service);
        writeln!(rules, "add rule ip kube-proxy {chain} ip saddr {} jump mark-for-masquerade", endpoint.ip())?;
        writeln!(rules, "add rule ip kube-proxy {chain} meta l4proto {protocol} dnat to {endpoint}")?;
    }
    Ok(())
}

fn hash(number: usize, endpoint: usize) -> String {
    format!("{:08X}", label(number, endpoint) >> 32)
}

fn service_chain(number: usize, service: &ServicePort) -> String {
    format!("service-{}{number}-{}/{}", hash(number, 0), service.name.replace(':', "/"), service.protocol)
}

fn endpoint_chain(number: usize, endpoint: usize, service: &ServicePort) -> String {
    let address =
        service.endpoints.get(endpoint).map(|address| address.to_string().replace(':', "/")).unwrap_or_default();
    format!(
        "endpoint-{}{number}-{}/{}__{address}",
        hash(number, endpoint),
        service.name.replace(':', "/"),
        service.protocol
    )
}
