//! Turns a packet into the refusal its sender gets: TCP RST (RFC 9293 §3.10.7.1), or ICMP / ICMPv6 port unreachable
//! (RFC 792, RFC 4443 §3.1) for the rest.

use svc_common::{AddrV4, AddrV6, Port, Protocol};

use crate::address::Address;
use crate::checksum::{add, finish, sum_bytes};
use crate::parse::{ETHERNET_LENGTH, Headers, checksum_offset, tcp_flag};
use crate::rewrite::swap_ethernet;
use crate::sctp;
use crate::tables::{ChecksumPart, Packet, RewriteError};

/// TTL or hop limit of packets that begin their way here.
pub const TTL: u8 = 64;
const TCP_LENGTH: usize = 20;

/// Families in which a refusal can be written.
pub trait Refuse: Address {
    const NETWORK_LENGTH: usize;

    /// Writes a network header without options for `payload_length` bytes behind it.
    fn store_network<P: Packet>(
        packet: &mut P,
        source: Self,
        destination: Self,
        protocol: Protocol,
        payload_length: u16,
    ) -> Result<(), RewriteError>;

    /// Replaces the packet's content by an ICMP port unreachable that quotes the headers it had, `N` bytes of transport.
    fn store_unreachable<const N: usize, P: Packet>(
        packet: &mut P,
        headers: &Headers<Self>,
        offloaded: bool,
    ) -> Result<(), RewriteError>;
}

impl Refuse for AddrV4 {
    const NETWORK_LENGTH: usize = 20;

    #[inline(always)]
    fn store_network<P: Packet>(
        packet: &mut P,
        source: Self,
        destination: Self,
        protocol: Protocol,
        payload_length: u16,
    ) -> Result<(), RewriteError> {
        let [length_high, length_low] = (Self::NETWORK_LENGTH as u16 + payload_length).to_be_bytes();
        // Don't Fragment and identification zero, as the kernel's own resets.
        let mut header = [0x45, 0, length_high, length_low, 0, 0, 0x40, 0, TTL, protocol.0, 0, 0];
        let sum = add(sum_bytes(&header), add(source.sum(), destination.sum()));
        [header[10], header[11]] = finish(sum).to_ne_bytes();
        packet.store(ETHERNET_LENGTH, &header)?;
        packet.store(ETHERNET_LENGTH + 12, &source.octets())?;
        packet.store(ETHERNET_LENGTH + 16, &destination.octets())
    }

    #[inline(always)]
    fn store_unreachable<const N: usize, P: Packet>(
        packet: &mut P,
        headers: &Headers<Self>,
        _offloaded: bool,
    ) -> Result<(), RewriteError> {
        const ICMP_LENGTH: usize = 8;
        let mut header: [u8; 20] = packet.load(ETHERNET_LENGTH).ok_or(RewriteError)?;
        let transport: [u8; N] = packet.load(headers.transport_offset).ok_or(RewriteError)?;
        let length = ICMP_LENGTH + header.len() + N;
        // What finishes an offloaded UDP checksum finds the message's unused word in its place; the sum of the message
        // stays right, since ICMP has no pseudo header. The quote leaves out IPv4 options: the sender finds its ports
        // right behind a header of five words.
        header[0] = 0x45;
        let sum = add(u16::from_ne_bytes([3, 3]) as u32, add(sum_bytes(&header), sum_bytes(&transport)));
        let [high, low] = finish(sum).to_ne_bytes();
        packet.resize((ETHERNET_LENGTH + Self::NETWORK_LENGTH + length) as u32)?;
        Self::store_network(packet, headers.key.destination, headers.key.source, Protocol::ICMP, length as u16)?;
        let message = ETHERNET_LENGTH + Self::NETWORK_LENGTH;
        packet.store(message, &[3, 3, high, low, 0, 0, 0, 0])?;
        packet.store(message + ICMP_LENGTH, &header)?;
        packet.store(message + ICMP_LENGTH + header.len(), &transport)
    }
}

impl Refuse for AddrV6 {
    const NETWORK_LENGTH: usize = 40;

    #[inline(always)]
    fn store_network<P: Packet>(
        packet: &mut P,
        source: Self,
        destination: Self,
        protocol: Protocol,
        payload_length: u16,
    ) -> Result<(), RewriteError> {
        let [length_high, length_low] = payload_length.to_be_bytes();
        packet.store(ETHERNET_LENGTH, &[0x60, 0, 0, 0, length_high, length_low, protocol.0, TTL])?;
        packet.store(ETHERNET_LENGTH + 8, &source.octets())?;
        packet.store(ETHERNET_LENGTH + 24, &destination.octets())
    }

    #[inline(always)]
    fn store_unreachable<const N: usize, P: Packet>(
        packet: &mut P,
        headers: &Headers<Self>,
        offloaded: bool,
    ) -> Result<(), RewriteError> {
        const ICMP_LENGTH: usize = 8;
        let quote = Self::NETWORK_LENGTH + N;
        // Extension headers are left out of the quote, which therefore names the transport protocol itself.
        let mut first: [u8; 8] = packet.load(ETHERNET_LENGTH).ok_or(RewriteError)?;
        first[6] = headers.key.protocol.0;
        let transport: [u8; N] = packet.load(headers.transport_offset).ok_or(RewriteError)?;
        let addresses = add(headers.key.source.sum(), headers.key.destination.sum());
        let length = (ICMP_LENGTH + quote) as u16;
        // Pseudo header (addresses, length, next header) and message; the quote repeats both addresses.
        let mut sum = add(add(addresses, addresses), sum_bytes(&first));
        sum = add(sum, sum_bytes(&transport));
        sum = add(sum, length.to_be() as u32);
        sum = add(sum, u16::from_ne_bytes([0, Protocol::ICMPV6.0]) as u32);
        sum = add(sum, u16::from_ne_bytes([1, 4]) as u32);
        // What finishes an offloaded UDP checksum will find the message's unused word in its place: with the sum of
        // the pseudo header there, the message is complete before and after.
        let [seed_high, seed_low] = if offloaded {
            let mut seed = add(addresses, length.to_be() as u32);
            seed = add(seed, u16::from_ne_bytes([0, Protocol::ICMPV6.0]) as u32);
            (!finish(seed)).to_ne_bytes()
        } else {
            [0, 0]
        };
        sum = add(sum, u16::from_ne_bytes([seed_high, seed_low]) as u32);
        let [high, low] = finish(sum).to_ne_bytes();
        packet.resize((ETHERNET_LENGTH + Self::NETWORK_LENGTH + ICMP_LENGTH + quote) as u32)?;
        Self::store_network(packet, headers.key.destination, headers.key.source, Protocol::ICMPV6, length)?;
        let message = ETHERNET_LENGTH + Self::NETWORK_LENGTH;
        packet.store(message, &[1, 4, high, low, 0, 0, seed_high, seed_low])?;
        packet.store(message + ICMP_LENGTH, &first)?;
        packet.store(message + ICMP_LENGTH + 8, &headers.key.source.octets())?;
        packet.store(message + ICMP_LENGTH + 24, &headers.key.destination.octets())?;
        packet.store(message + ICMP_LENGTH + 40, &transport)
    }
}

/// Turns the packet into its own refusal, addressed to its sender. Out of line, for the stack's sake.
#[inline(never)]
pub fn refuse<A: Refuse, P: Packet>(packet: &mut P, headers: &Headers<A>) -> Result<(), RewriteError> {
    swap_ethernet(packet)?;
    // Nobody offloads other checksums.
    let summed = matches!(headers.key.protocol, Protocol::TCP | Protocol::UDP);
    let offloaded = summed && is_offloaded(packet, checksum_offset(headers.key.protocol, headers.transport_offset))?;
    if headers.key.protocol == Protocol::TCP {
        store_reset(packet, headers, offloaded)
    } else {
        // Behind options or extensions the place that will be finished would lie in the midst of the message.
        if offloaded && headers.transport_offset != ETHERNET_LENGTH + A::NETWORK_LENGTH {
            return Err(RewriteError);
        }
        if headers.key.protocol == Protocol::SCTP {
            A::store_unreachable::<{ sctp::QUOTE }, _>(packet, headers, offloaded)
        } else {
            A::store_unreachable::<8, _>(packet, headers, offloaded)
        }
    }
}

/// Whether something behind us still has to finish the checksum (CHECKSUM_PARTIAL): then a change of the segment does
/// not change the field.
#[inline(always)]
fn is_offloaded<P: Packet>(packet: &mut P, offset: usize) -> Result<bool, RewriteError> {
    let before: [u8; 2] = packet.load(offset).ok_or(RewriteError)?;
    packet.update_checksum(offset, 1, ChecksumPart::Segment, false)?;
    let after: [u8; 2] = packet.load(offset).ok_or(RewriteError)?;
    packet.store(offset, &before)?;
    Ok(u16::from_ne_bytes(before) == u16::from_ne_bytes(after))
}

#[inline(always)]
fn store_reset<A: Refuse, P: Packet>(
    packet: &mut P,
    headers: &Headers<A>,
    offloaded: bool,
) -> Result<(), RewriteError> {
    let key = &headers.key;
    let header: [u8; TCP_LENGTH] = packet.load(headers.transport_offset).ok_or(RewriteError)?;
    let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let acknowledged = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    let (sequence, acknowledged, flags) = if headers.tcp_flags & tcp_flag::ACK != 0 {
        (acknowledged, 0, tcp_flag::RST)
    } else {
        let header_length = (header[12] >> 4) as u32 * 4;
        let payload = headers.end.saturating_sub(headers.transport_offset as u32).saturating_sub(header_length);
        let controls =
            (headers.tcp_flags & tcp_flag::SYN != 0) as u32 + (headers.tcp_flags & tcp_flag::FIN != 0) as u32;
        (0, sequence.wrapping_add(payload).wrapping_add(controls), tcp_flag::RST | tcp_flag::ACK)
    };
    let [s0, s1, s2, s3] = sequence.to_be_bytes();
    let [a0, a1, a2, a3] = acknowledged.to_be_bytes();
    let ports = |port: Port| port.0.to_ne_bytes();
    let [from0, from1] = ports(key.destination_port);
    let [to0, to1] = ports(key.source_port);
    let mut reset =
        [from0, from1, to0, to1, s0, s1, s2, s3, a0, a1, a2, a3, (TCP_LENGTH as u8 / 4) << 4, flags, 0, 0, 0, 0, 0, 0];
    let mut sum = add(headers.key.source.sum(), headers.key.destination.sum());
    sum = add(sum, u16::from_ne_bytes([0, Protocol::TCP.0]) as u32);
    sum = add(sum, (TCP_LENGTH as u16).to_be() as u32);
    let transport_offset = ETHERNET_LENGTH + A::NETWORK_LENGTH;
    let mut length = transport_offset + TCP_LENGTH;
    if !offloaded {
        [reset[16], reset[17]] = finish(add(sum, sum_bytes(&reset))).to_ne_bytes();
    } else if headers.transport_offset == transport_offset {
        [reset[16], reset[17]] = (!finish(sum)).to_ne_bytes();
    } else {
        // The place that will be finished lay behind options or extensions that the reset does not have. The kernel
        // does not let go of it, so it becomes padding.
        [reset[16], reset[17]] = finish(add(sum, sum_bytes(&reset))).to_ne_bytes();
        length = headers.transport_offset + TCP_LENGTH;
    }
    packet.resize(length as u32)?;
    A::store_network(packet, headers.key.destination, headers.key.source, Protocol::TCP, TCP_LENGTH as u16)?;
    packet.store(transport_offset, &reset)
}
