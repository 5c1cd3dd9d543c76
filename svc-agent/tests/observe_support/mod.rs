//! A small cluster as the maps would hold it: in memory for tests of what is shown, and written to kernel maps for
//! tests that it is read. Both must give the same lists.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

pub mod kernel;

use std::collections::BTreeMap;

use svc_agent::observe::{Fill, MapReader, ReadError};
use svc_common::{
    AddrV4, AddrV6, BackendEntry, BackendRef, DropReason, Family, Flow, FlowKey, FlowKeyV4, FlowKeyV6, FlowV4, FlowV6,
    Port, Protocol, Publication, ServiceCounters, ServiceEntry, ServiceName, Verdict, backend_flag, flow_op,
    flow_stage, flow_state, map,
};

#[derive(Clone, Default)]
pub struct MemoryReader {
    pub services: BTreeMap<u32, ServiceEntry>,
    pub names: BTreeMap<u32, ServiceName>,
    pub slots: Vec<BackendRef>,
    pub backends: BTreeMap<u32, BackendEntry>,
    pub counters: BTreeMap<u32, ServiceCounters>,
    pub drops: BTreeMap<DropReason, u64>,
    pub flows_v4: Vec<(FlowKeyV4, FlowV4)>,
    pub flows_v6: Vec<(FlowKeyV6, FlowV6)>,
    pub now: u32,
}

impl MapReader for MemoryReader {
    fn services(&self, visit: &mut dyn FnMut(u32, &ServiceEntry)) -> Result<(), ReadError> {
        self.services.iter().for_each(|(index, entry)| visit(*index, entry));
        Ok(())
    }

    fn service_name(&self, index: u32) -> Result<Option<ServiceName>, ReadError> {
        Ok(self.names.get(&index).copied())
    }

    fn slots(&self, publication: Publication) -> Result<Vec<BackendRef>, ReadError> {
        let first = publication.first_slot() as usize;
        Ok(self.slots[first..first + publication.slot_count() as usize].to_vec())
    }

    fn backends(&self, visit: &mut dyn FnMut(u32, &BackendEntry)) -> Result<(), ReadError> {
        let living = self.backends.iter().filter(|(_, entry)| entry.generation % 2 == 1);
        living.for_each(|(index, entry)| visit(*index, entry));
        Ok(())
    }

    fn service_counters(&self) -> Result<Vec<(u32, ServiceCounters)>, ReadError> {
        Ok(self.counters.iter().map(|(index, counters)| (*index, *counters)).collect())
    }

    fn drop_counters(&self) -> Result<Vec<(DropReason, u64)>, ReadError> {
        Ok(DropReason::ALL.iter().map(|reason| (*reason, self.drops.get(reason).copied().unwrap_or(0))).collect())
    }

    fn express_packets(&self) -> Result<u64, ReadError> {
        Ok(37)
    }

    fn flows_v4(&self) -> Result<Vec<(FlowKeyV4, FlowV4)>, ReadError> {
        Ok(self.flows_v4.clone())
    }

    fn flows_v6(&self) -> Result<Vec<(FlowKeyV6, FlowV6)>, ReadError> {
        Ok(self.flows_v6.clone())
    }

    fn counted(&self) -> Result<Vec<Fill>, ReadError> {
        let fill = |map, entries: usize, capacity| Fill { map, entries: entries as u64, capacity };
        Ok(vec![
            fill(map::FLOWS_V4, self.flows_v4.len(), 4_096),
            fill(map::FLOWS_V6, self.flows_v6.len(), 4_096),
            fill(map::AFFINITY, 0, 4_096),
            fill(map::SOCKETS, 0, 4_096),
            fill(map::FRAGMENTS, 0, 4_096),
            fill(map::HELD_FRAGMENTS, 0, 4_096),
            fill(map::SERVICE_COUNTERS, self.counters.len(), 64),
            fill(map::SERVICE_NAMES, self.names.len(), 64),
        ])
    }

    fn capacities(&self) -> Vec<(&'static str, u32)> {
        vec![
            (map::SERVICES, 64),
            (map::FRONTENDS_V4, 64),
            (map::FRONTENDS_V6, 64),
            (map::SLOTS, 128),
            (map::BACKENDS, 64),
        ]
    }

    fn now(&self) -> u32 {
        self.now
    }
}

pub const NGINX: u32 = 3;
pub const NGINX_V6: u32 = 4;
pub const DNS: u32 = 7;
pub const LOCAL_ONLY: u32 = 9;
pub const UNNAMED: u32 = 11;

pub fn name(text: &str) -> ServiceName {
    let mut name = ServiceName { bytes: [0; ServiceName::MAX_LEN] };
    name.bytes[..text.len()].copy_from_slice(text.as_bytes());
    name
}

pub fn v4(octets: [u8; 4]) -> AddrV4 {
    AddrV4::from_octets(octets)
}

pub fn v6(last: u8) -> AddrV6 {
    AddrV6::from_octets([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
}

fn service(publication: Publication, address: AddrV6, family: Family, port: u16, protocol: Protocol) -> ServiceEntry {
    ServiceEntry { publication, address, family, port: Port::from_host(port), protocol, ..Default::default() }
}

fn backend(address: AddrV6, port: u16, service: u32, generation: u32) -> BackendEntry {
    BackendEntry { address, port: Port::from_host(port), service, generation, ..Default::default() }
}

/// Both flows of a connection as TC makes them.
pub fn pair<A: Copy + Default>(
    protocol: Protocol,
    [client, frontend, to]: [(A, u16); 3],
    fields: Flow<A>,
) -> [(FlowKey<A>, Flow<A>); 2] {
    let key = |from: (A, u16), to: (A, u16), stage| FlowKey {
        source: from.0,
        destination: to.0,
        source_port: Port::from_host(from.1),
        destination_port: Port::from_host(to.1),
        protocol,
        stage,
        zero: 0,
    };
    let flow = |from: (A, u16), to: (A, u16), ops, peer_stage| Flow {
        source: from.0,
        destination: to.0,
        source_port: Port::from_host(from.1),
        destination_port: Port::from_host(to.1),
        ops: ops | flow_op::ADDRESSES,
        peer_stage,
        ..fields
    };
    [
        (key(client, frontend, flow_stage::INGRESS), flow(client, to, flow_op::TO_BACKEND, flow_stage::EGRESS)),
        (key(to, client, flow_stage::EGRESS), flow(frontend, client, 0, flow_stage::INGRESS)),
    ]
}

/// `now` is the time of the newest packets.
pub fn cluster(now: u32) -> MemoryReader {
    let nginx = (v4([10, 110, 110, 219]), 80);
    let dns = (v4([10, 96, 0, 10]), 53);
    let [web46, web47, web48] = [46, 47, 48].map(|last| v4([10, 244, 3, last]));
    let dns_pod = v4([10, 244, 0, 2]);

    let mut reader = MemoryReader { now, ..Default::default() };
    let forward = |first, count| Publication::new(Verdict::FORWARD, first, count);
    reader.services = BTreeMap::from([
        (NGINX, service(forward(0, 3), nginx.0.into(), Family::V4, nginx.1, Protocol::TCP)),
        (NGINX_V6, service(Publication::new(Verdict::REJECT, 0, 0), v6(0x50), Family::V6, 80, Protocol::TCP)),
        (
            DNS,
            ServiceEntry {
                affinity_timeout: 10_800,
                ..service(forward(3, 2), dns.0.into(), Family::V4, dns.1, Protocol::UDP)
            },
        ),
        (
            LOCAL_ONLY,
            service(Publication::new(Verdict::DROP, 0, 0), v4([10, 96, 0, 99]).into(), Family::V4, 8443, Protocol::TCP),
        ),
        (UNNAMED, service(forward(5, 1), v6(0x51), Family::V6, 443, Protocol::TCP)),
    ]);
    reader.names = BTreeMap::from([
        (NGINX, name("default/nginx-service")),
        (NGINX_V6, name("default/nginx-service")),
        (DNS, name("kube-system/kube-dns:dns")),
        (LOCAL_ONLY, name("kube-system/node-local:https")),
    ]);
    reader.backends = BTreeMap::from([
        (10, backend(web46.into(), 80, NGINX, 1)),
        (11, BackendEntry { flags: backend_flag::LOCAL, ..backend(web47.into(), 80, NGINX, 3) }),
        (12, backend(web48.into(), 80, NGINX, 1)),
        (13, backend(v4([10, 244, 3, 49]).into(), 80, NGINX, 5)),
        (20, backend(dns_pod.into(), 5353, DNS, 1)),
        (21, backend(v4([10, 244, 0, 3]).into(), 5353, DNS, 2)),
        (30, backend(v6(0x61), 8443, UNNAMED, 7)),
    ]);
    reader.slots = vec![
        BackendRef::new(10, 1),
        BackendRef::new(11, 3),
        BackendRef::new(12, 1),
        BackendRef::new(20, 1),
        BackendRef::new(20, 1),
        BackendRef::new(30, 7),
    ];
    reader.counters = BTreeMap::from([
        (
            NGINX,
            ServiceCounters {
                connections_tc: 12,
                connections_socket: 30,
                packets_to_backend: 100,
                bytes_to_backend: 6_400,
                packets_to_client: 90,
                bytes_to_client: 1_500_000,
                rejected: 0,
            },
        ),
        (NGINX_V6, ServiceCounters { rejected: 4, ..Default::default() }),
    ]);
    reader.drops = BTreeMap::from([(DropReason::NoEndpoint, 4), (DropReason::Malformed, 1)]);

    let established = Flow {
        backend: BackendRef::new(11, 3),
        service: NGINX,
        last_seen: now - 5,
        state: flow_state::REPLIED,
        ..Default::default()
    };
    let mut complete = pair(Protocol::TCP, [(v4([10, 244, 3, 50]), 41_000), nginx, (web47, 80)], established);
    complete[1].1.last_seen = now - 2;
    // Half-closed by the client; its endpoint is gone.
    let closing = Flow {
        backend: BackendRef::new(10, 99),
        last_seen: now - 200,
        state: flow_state::REPLIED | flow_state::FIN_CLIENT,
        ..established
    };
    let closing = pair(Protocol::TCP, [(v4([10, 244, 3, 9]), 50_000), nginx, (web46, 80)], closing);
    let query = Flow { backend: BackendRef::new(20, 1), service: DNS, last_seen: now, state: 0, ..established };
    let query = pair(Protocol::UDP, [(v4([10, 244, 3, 50]), 40_001), dns, (dns_pod, 5353)], query);
    let direct = Flow { service: FlowV4::NO_SERVICE, ops: flow_op::DIRECT, ..Default::default() };
    let direct_key = FlowKey { source: v4([10, 244, 3, 51]), destination: web46, ..complete[0].0 };
    reader.flows_v4 = [complete, closing].concat();
    reader.flows_v4.push(query[0]);
    reader.flows_v4.push((direct_key, direct));

    // Only the direction to the client is left.
    let reply = Flow {
        backend: BackendRef::new(30, 7),
        service: UNNAMED,
        last_seen: now - 4_000,
        state: flow_state::CLOSED,
        ..Default::default()
    };
    let reply = pair(Protocol::TCP, [(v6(0x70), 50_001), (v6(0x51), 443), (v6(0x61), 8443)], reply);
    reader.flows_v6 = vec![reply[1]];
    reader
}
