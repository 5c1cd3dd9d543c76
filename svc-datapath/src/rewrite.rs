//! Puts a flow's tuple into a packet, checksums included.

use svc_common::{AddrV4, AddrV6, Flow, Protocol, flow_op};

use crate::address::Address;
use crate::checksum;
use crate::parse::{ETHERNET_LENGTH, Fragment, Headers, IPV4_CHECKSUM, checksum_offset};
use crate::tables::{ChecksumPart, Packet, RewriteError};

/// Families whose addresses can be replaced in a packet.
pub trait RewriteNetwork: Address {
    /// Replaces the addresses of the network header at `offset`. `difference` is what the new addresses add to a sum
    /// with the old ones.
    fn store_addresses<P: Packet>(
        packet: &mut P,
        offset: usize,
        source: Self,
        destination: Self,
        difference: u32,
    ) -> Result<(), RewriteError>;
}

impl RewriteNetwork for AddrV4 {
    #[inline(always)]
    fn store_addresses<P: Packet>(
        packet: &mut P,
        offset: usize,
        source: Self,
        destination: Self,
        difference: u32,
    ) -> Result<(), RewriteError> {
        let field: [u8; 2] = packet.load(offset + IPV4_CHECKSUM).ok_or(RewriteError)?;
        let field = checksum::apply(u16::from_ne_bytes(field), difference);
        packet.store(offset + IPV4_CHECKSUM, &field.to_ne_bytes())?;
        packet.store(offset + 12, &source.octets())?;
        packet.store(offset + 16, &destination.octets())
    }
}

impl RewriteNetwork for AddrV6 {
    #[inline(always)]
    fn store_addresses<P: Packet>(
        packet: &mut P,
        offset: usize,
        source: Self,
        destination: Self,
        _difference: u32,
    ) -> Result<(), RewriteError> {
        packet.store(offset + 8, &source.octets())?;
        packet.store(offset + 24, &destination.octets())
    }
}

/// Replaces the packet's tuple by that of `flow`. Later fragments have no transport header: the checksum of the datagram
/// is in the first one, which takes up the whole change.
#[inline(always)]
pub fn translate<A: RewriteNetwork, P: Packet>(
    packet: &mut P,
    headers: &Headers<A>,
    flow: &Flow<A>,
) -> Result<(), RewriteError> {
    let (key, transport_offset) = (&headers.key, headers.transport_offset);
    // SCTP's checksum is none of our business (see `sctp`).
    let has_checksum = headers.fragment != Fragment::Later && key.protocol != Protocol::SCTP;
    let checksum_at = checksum_offset(key.protocol, transport_offset);
    let zero_is_none = key.protocol == Protocol::UDP;
    let addresses = flow.ops & flow_op::ADDRESSES != 0;
    let ports = has_checksum && (flow.source_port != key.source_port || flow.destination_port != key.destination_port);
    let address_difference = checksum::add(
        checksum::difference(flow.source.sum(), key.source.sum()),
        checksum::difference(flow.destination.sum(), key.destination.sum()),
    );
    let port_difference = checksum::add(
        checksum::difference(flow.source_port.0 as u32, key.source_port.0 as u32),
        checksum::difference(flow.destination_port.0 as u32, key.destination_port.0 as u32),
    );
    match (addresses, ports) {
        (true, true) => packet.update_checksums(checksum_at, address_difference, port_difference, zero_is_none)?,
        (true, false) if has_checksum => {
            packet.update_checksum(checksum_at, address_difference, ChecksumPart::PseudoHeader, zero_is_none)?;
        }
        (true, false) if !A::HEADER_CHECKSUM => packet.change_sum(address_difference),
        (false, true) => packet.update_checksum(checksum_at, port_difference, ChecksumPart::Segment, zero_is_none)?,
        _ => {}
    }
    if addresses {
        A::store_addresses(packet, ETHERNET_LENGTH, flow.source, flow.destination, address_difference)?;
    }
    if ports {
        packet.store(transport_offset, &flow.source_port.0.to_ne_bytes())?;
        packet.store(transport_offset + 2, &flow.destination_port.0.to_ne_bytes())?;
    }
    Ok(())
}

/// Addresses the frame to the machine it came from.
#[inline(always)]
pub fn swap_ethernet<P: Packet>(packet: &mut P) -> Result<(), RewriteError> {
    let destination: [u8; 6] = packet.load(0).ok_or(RewriteError)?;
    let source: [u8; 6] = packet.load(6).ok_or(RewriteError)?;
    packet.store(0, &source)?;
    packet.store(6, &destination)
}
