//! The way past the stack, played natively and by the real program: connections as TC makes them, packets of each that XDP
//! may or must not take, and what TC and the stack would make of one. Neighbours: `svc_datapath::express` is under test.

use svc_common::{Protocol, Uplink, uplink_flag};
use svc_datapath::express::{self, Arrival, Express, Journey, Uplinks, Way};
use svc_datapath::{Action, Address, ETHERNET_LENGTH, Packet as _};

use super::case::Hook;
use super::frame::{Checksums, Frame, Mac, NODE_MAC, icmp, raw, tcp, udp};
use super::native;
use super::packet::{MemoryPacket, Offload};
use super::tables::MemoryTables;
use super::world::{Change, World};

/// The uplink that packets come by, and another one.
pub const HERE: u32 = 11;
pub const THERE: u32 = 12;
pub const MTU: u16 = 1500;
/// The neighbour that everything is sent to, and the interface's own address.
pub const NEIGHBOUR: Mac = [0x02, 0, 0, 0, 0, 0x77];
pub const OTHER_UPLINK_MAC: Mac = [0x02, 0, 0, 0, 0, 0x0c];

/// What the routing table of the machine says of everything that is not too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Route {
    #[default]
    None,
    Back,
    Other,
}

impl Route {
    fn way(self) -> Option<Way> {
        match self {
            Self::None => None,
            Self::Back => Some(Way { interface: HERE, destination: NEIGHBOUR, source: NODE_MAC }),
            Self::Other => Some(Way { interface: THERE, destination: NEIGHBOUR, source: OTHER_UPLINK_MAC }),
        }
    }
}

impl Arrival for MemoryPacket {
    fn interface(&self) -> u32 {
        HERE
    }

    fn way<A: Address>(&self, journey: &Journey<A>) -> Option<Way> {
        self.route_out().way().filter(|_| journey.length <= MTU)
    }
}

impl Uplinks for MemoryTables {
    fn uplink(&self, interface: u32) -> Option<Uplink> {
        self.uplinks.get(&interface).copied()
    }

    fn count_express(&self) {
        self.express.set(self.express.get() + 1);
    }
}

pub fn uplink(mac: Mac, flags: u16) -> Uplink {
    let [a, b, c, d, e, f] = mac;
    Uplink { address: [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes), flags }
}

impl MemoryTables {
    pub fn set_uplink(&mut self, interface: u32, uplink: Uplink) {
        self.uplinks.insert(interface, uplink);
    }

    /// Packets that went past the stack.
    pub fn express_packets(&self) -> u64 {
        self.express.get()
    }
}

/// Sends one packet through XDP.
pub fn run(packet: &mut MemoryPacket, tables: &MemoryTables, route: Route) -> Express {
    packet.set_route_out(route);
    express::ingress(packet, tables)
}

/// What TC and a stack that forwards make of it on the way from uplink to uplink; `None`: not that.
pub fn by_way_of_the_stack(packet: &mut MemoryPacket, tables: &MemoryTables, route: Route) -> Option<()> {
    if native::run(Hook::UplinkIngress, packet, tables) != Action::Pass {
        return None;
    }
    let way = route.way()?;
    let ethertype: [u8; 2] = packet.load(12)?;
    // A router's part, in other words than the datapath's: TTL and hop limit are high bytes of their words.
    if ethertype == [0x08, 0x00] {
        let at = ETHERNET_LENGTH + 8;
        let [ttl, protocol]: [u8; 2] = packet.load(at)?;
        if ttl <= 1 {
            return None;
        }
        let sum: [u8; 2] = packet.load(at + 2)?;
        let sum = u32::from(u16::from_be_bytes(sum)) + 0x100;
        let sum = (sum & 0xffff) + (sum >> 16);
        packet.store(at, &[ttl - 1, protocol]).ok()?;
        packet.store(at + 2, &(sum as u16).to_be_bytes()).ok()?;
    } else {
        let [next, hops]: [u8; 2] = packet.load(ETHERNET_LENGTH + 6)?;
        if hops <= 1 {
            return None;
        }
        packet.store(ETHERNET_LENGTH + 6, &[next, hops - 1]).ok()?;
    }
    if native::run(Hook::UplinkEgress, packet, tables) != Action::Pass {
        return None;
    }
    packet.store(0, &way.destination).ok()?;
    packet.store(6, &way.source).ok()
}

/// Who talks to whom: a client outside, a service, its endpoint on another node, and this node.
#[derive(Clone, Copy, Debug)]
pub struct Talk {
    pub protocol: Protocol,
    pub client: &'static str,
    pub service: &'static str,
    pub pod: &'static str,
    pub node: &'static str,
}

pub const TALKS: [Talk; 4] = [
    Talk {
        protocol: Protocol::TCP,
        client: "192.0.2.9:5000",
        service: "10.110.110.219:80",
        pod: "10.244.7.9:8080",
        node: "10.0.0.1",
    },
    Talk {
        protocol: Protocol::UDP,
        client: "192.0.2.9:5000",
        service: "10.96.0.10:53",
        pod: "10.244.7.9:5353",
        node: "10.0.0.1",
    },
    Talk {
        protocol: Protocol::TCP,
        client: "[2001:db8::9]:5000",
        service: "[fd00:10:110::db]:80",
        pod: "[fd00:10:244:7::9]:8080",
        node: "[fd00::1]",
    },
    Talk {
        protocol: Protocol::UDP,
        client: "[2001:db8::9]:5000",
        service: "[fd00:10:96::a]:53",
        pod: "[fd00:10:244:7::9]:5353",
        node: "[fd00::1]",
    },
];

impl Talk {
    pub fn world(&self) -> World {
        World::new().forward(self.protocol, self.service, &[self.pod])
    }

    pub fn is_v4(&self) -> bool {
        !self.client.starts_with('[')
    }

    /// The node's address and the port it lends.
    pub fn masqueraded(&self, port: u16) -> String {
        format!("{}:{port}", self.node)
    }

    /// The client between its two pairs of flows, by the same port.
    pub fn between(&self, port: u16) -> String {
        let (address, _) = self.client.rsplit_once(':').expect("an address with a port");
        format!("{address}:{port}")
    }

    pub fn frame(&self, from: &str, to: &str) -> Frame {
        match self.protocol {
            Protocol::TCP => tcp(from, to).ack(101, 501).payload(b"something to say"),
            _ => udp(from, to).payload(b"something to say!"),
        }
    }

    /// The first packet and its answer.
    pub fn opening(&self, from: &str, to: &str, first: bool) -> Frame {
        match (self.protocol, first) {
            (Protocol::TCP, true) => tcp(from, to).syn(100),
            (Protocol::TCP, false) => tcp(from, to).syn_ack(500, 101),
            _ => udp(from, to),
        }
    }

    /// Tables in which TC has made the connection and seen its answer; and the port that the node lent.
    pub fn established(&self) -> (MemoryTables, u16) {
        let mut tables = MemoryTables::new(self.world().changes(), &[]);
        tables.set_uplink(HERE, uplink(NODE_MAC, 0));
        let mut packet = self.opening(self.client, self.service, true).packet(Checksums::Complete);
        by_way_of_the_stack(&mut packet, &tables, Route::Back).expect("the first packet passes");
        let port = super::runner::source_port(packet.bytes()).expect("a port of the node");
        let mut packet = self.opening(self.pod, &self.masqueraded(port), false).packet(Checksums::Complete);
        by_way_of_the_stack(&mut packet, &tables, Route::Back).expect("the answer passes");
        (tables, port)
    }

    /// A second in which neither direction's packets are sent through the stack for its neighbours' sake.
    pub fn settle(tables: &mut MemoryTables, mut taken: impl FnMut(&MemoryTables) -> bool) {
        while !taken(&tables.clone()) {
            tables.apply(&Change::Advance(1));
        }
    }

    /// Packets in the middle of the connection, in both directions.
    pub fn ordinary(&self, port: u16) -> Vec<(&'static str, Frame)> {
        let node = self.masqueraded(port);
        let to_service = || self.frame(self.client, self.service);
        let to_node = || self.frame(self.pod, &node);
        // What fits exactly.
        let headers = if self.is_v4() { 20 } else { 40 } + if self.protocol == Protocol::TCP { 20 } else { 8 };
        let full = vec![7; usize::from(MTU) - headers];
        let mut frames = vec![
            ("request", to_service()),
            ("reply", to_node()),
            ("request of full size", to_service().payload(&full)),
            ("reply of full size", to_node().payload(&full)),
            ("odd length", to_service().payload(&[1; 33])),
            ("nothing in it", to_service().payload(&[])),
            ("padded", to_service().payload(&[]).trailer(&[0; 6])),
            ("last hop but one", to_service().ttl(2)),
        ];
        match self.protocol {
            Protocol::TCP => {
                frames.push(("TCP options", to_service().tcp_options(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])))
            }
            _ => frames.push(("no checksum", to_service().without_checksum())),
        }
        frames
    }

    /// Packets of the same two ends that are left to TC.
    pub fn unusual(&self, port: u16) -> Vec<(&'static str, Frame)> {
        let node = self.masqueraded(port);
        let (client, service, pod) = (self.client, self.service, self.pod);
        let to_service = || self.frame(client, service);
        let too_long = vec![7; usize::from(MTU)];
        let elsewhere = |mut frame: Frame| {
            frame.destination_mac = [0x02, 0, 0, 0, 0, 0x99];
            frame
        };
        let broadcast = |mut frame: Frame| {
            frame.destination_mac = [0xff; 6];
            frame
        };
        let echo = if self.is_v4() { 8 } else { 128 };
        let mut frames = vec![
            ("a VLAN tag", to_service().vlan(5)),
            ("the last hop", to_service().ttl(1)),
            ("no hops left", to_service().ttl(0)),
            ("beyond the MTU", to_service().payload(&too_long)),
            ("a first fragment", to_service().fragment(7, 0, true)),
            ("a later fragment", raw(self.protocol.0, client, service, &[1; 24]).fragment(7, 2, false)),
            ("another host's frame", elsewhere(to_service())),
            ("a broadcast", broadcast(to_service())),
            ("a ping", icmp(client, service, echo, 0, [0; 4], b"ping")),
            ("SCTP", raw(132, client, service, &[0; 32])),
            (
                "another client",
                self.frame(if self.is_v4() { "192.0.2.10:5000" } else { "[2001:db8::10]:5000" }, service),
            ),
            ("nobody's port", self.frame(pod, &self.masqueraded(port ^ 1))),
            (
                "none of our business",
                self.frame(client, if self.is_v4() { "198.51.100.1:80" } else { "[2001:db8:1::1]:80" }),
            ),
        ];
        if self.is_v4() {
            frames.push(("IP options", to_service().ip_options(&[7, 7, 4, 0, 0, 0, 0, 0])));
        } else {
            frames.push(("an extension header", to_service().extension(60, &[1, 4, 0, 0, 0, 0])));
        }
        if self.protocol == Protocol::TCP {
            frames.extend([
                ("a SYN", tcp(client, service).syn(100)),
                ("a SYN and ACK", tcp(pod, &node).syn_ack(500, 101)),
                ("a FIN", tcp(client, service).fin(101, 501)),
                ("a FIN from the endpoint", tcp(pod, &node).fin(501, 101)),
                ("a RST", tcp(client, service).rst(101)),
                ("a RST from the endpoint", tcp(pod, &node).rst(501)),
            ]);
        }
        frames
    }
}

/// Bits of the flags that let frames go to another uplink.
pub const SENDS: u16 = uplink_flag::SENDS;
pub const GENERIC: u16 = uplink_flag::GENERIC;

/// A packet as from a wire.
pub fn from_wire(bytes: &[u8]) -> MemoryPacket {
    MemoryPacket::new(bytes.to_vec(), Offload::Complete, false)
}
