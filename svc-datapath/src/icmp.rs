//! ICMP and ICMPv6 errors about translated packets: the quoted packet gets back the addresses its sender used, so that
//! path MTU discovery and port unreachable work through a service address (RFC 5508 §4, RFC 4443 §2.4).

use svc_common::{AddrV4, AddrV6, FlowKey, Port, Protocol, flow_op};

use crate::checksum;
use crate::parse::{ETHERNET_LENGTH, Headers};
use crate::rewrite::{RewriteNetwork, swap_ethernet};
use crate::tables::{Action, ChecksumPart, FamilyTables, Packet};

const ICMP_HEADER: usize = 8;

/// Families whose errors can be read.
pub trait Icmp: RewriteNetwork {
    const PROTOCOL: Protocol;
    /// Offset of the source address in the network header; the destination follows it.
    const ADDRESSES: usize;

    /// Whether messages of this type quote a packet.
    fn is_error(kind: u8) -> bool;
    /// Transport protocol and offset of the transport header of the packet quoted at `offset`.
    fn parse_quoted<P: Packet>(packet: &P, offset: usize) -> Option<(Protocol, usize)>;
    fn load_address<P: Packet>(packet: &P, offset: usize) -> Option<Self>;
}

impl Icmp for AddrV4 {
    const PROTOCOL: Protocol = Protocol::ICMP;
    const ADDRESSES: usize = 12;

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        // Destination unreachable (with fragmentation needed), time exceeded, parameter problem (RFC 792).
        matches!(kind, 3 | 11 | 12)
    }

    #[inline(always)]
    fn parse_quoted<P: Packet>(packet: &P, offset: usize) -> Option<(Protocol, usize)> {
        let [version_length, _] = packet.load(offset)?;
        let [_, protocol] = packet.load(offset + 8)?;
        let header_length = (version_length & 0x0f) as usize * 4;
        (version_length >> 4 == 4 && header_length >= 20).then_some((Protocol(protocol), offset + header_length))
    }

    #[inline(always)]
    fn load_address<P: Packet>(packet: &P, offset: usize) -> Option<Self> {
        packet.load(offset).map(Self::from_octets)
    }
}

impl Icmp for AddrV6 {
    const PROTOCOL: Protocol = Protocol::ICMPV6;
    const ADDRESSES: usize = 8;

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        // Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443 §2.1).
        matches!(kind, 1..=4)
    }

    #[inline(always)]
    fn parse_quoted<P: Packet>(packet: &P, offset: usize) -> Option<(Protocol, usize)> {
        const LENGTH: usize = 40;
        let [version, _] = packet.load(offset)?;
        let [next_header, _] = packet.load(offset + 6)?;
        (version >> 4 == 6).then_some((Protocol(next_header), offset + LENGTH))
    }

    #[inline(always)]
    fn load_address<P: Packet>(packet: &P, offset: usize) -> Option<Self> {
        packet.load(offset).map(Self::from_octets)
    }
}

/// Translates an error about a packet of a flow whose replies are translated at this stage; others pass unchanged.
/// Out of line, as everything that only happens now and then.
#[inline(never)]
pub fn translate_error<A: Icmp, P: Packet, T: FamilyTables<A>>(
    packet: &mut P,
    tables: &T,
    headers: &Headers<A>,
) -> Action {
    // An error message that cannot be translated helps nobody, and harms nobody as it is.
    match translate(packet, tables, headers) {
        Some(ops) if ops & flow_op::TURN_BACK != 0 && swap_ethernet(packet).is_ok() => Action::TurnBack,
        _ => Action::Pass,
    }
}

/// Returns the operations of the flow that the quoted packet belongs to.
#[inline(always)]
fn translate<A: Icmp, P: Packet, T: FamilyTables<A>>(packet: &mut P, tables: &T, headers: &Headers<A>) -> Option<u8> {
    let at = headers.transport_offset;
    let [kind, _] = packet.load(at)?;
    if !A::is_error(kind) || headers.end > packet.length() {
        return None;
    }
    let quoted = at + ICMP_HEADER;
    let (protocol, ports) = A::parse_quoted(packet, quoted)?;
    let [s0, s1, d0, d1] = packet.load(ports)?;
    // The flow of the replies to the quoted packet.
    let key = FlowKey {
        source: A::load_address(packet, quoted + A::ADDRESSES + size_of::<A>())?,
        destination: A::load_address(packet, quoted + A::ADDRESSES)?,
        source_port: Port(u16::from_ne_bytes([d0, d1])),
        destination_port: Port(u16::from_ne_bytes([s0, s1])),
        protocol,
        stage: headers.key.stage,
        zero: 0,
    };
    let reply = tables.flow(&key)?;
    // The quoted transport checksum is left as it is: no receiver verifies it, and mostly it is cut off.
    let mut difference = checksum::add(
        checksum::difference(reply.destination_port.0 as u32, key.destination_port.0 as u32),
        checksum::difference(reply.source_port.0 as u32, key.source_port.0 as u32),
    );
    packet.store(ports, &reply.destination_port.0.to_ne_bytes()).ok()?;
    packet.store(ports + 2, &reply.source_port.0.to_ne_bytes()).ok()?;
    let inner = checksum::add(
        checksum::difference(reply.destination.sum(), key.destination.sum()),
        checksum::difference(reply.source.sum(), key.source.sum()),
    );
    A::store_addresses(packet, quoted, reply.destination, reply.source, inner).ok()?;
    // Told by the endpoint, the error comes from the service; told by a router, it stays the router's.
    let source = if headers.key.source == key.source { reply.source } else { headers.key.source };
    let outer = checksum::add(
        checksum::difference(source.sum(), headers.key.source.sum()),
        checksum::difference(reply.destination.sum(), headers.key.destination.sum()),
    );
    A::store_addresses(packet, ETHERNET_LENGTH, source, reply.destination, outer).ok()?;
    // ICMPv6 sums the addresses of both packets; in IPv4 the headers' own checksums take up their change.
    if !A::HEADER_CHECKSUM {
        difference = checksum::add(difference, checksum::add(outer, inner));
    }
    packet.update_checksum(at + 2, difference, ChecksumPart::Segment, false).ok()?;
    Some(reply.ops)
}
