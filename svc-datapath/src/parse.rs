//! From bytes to headers: what of a packet the Service logic needs. VLAN-free Ethernet; anything else is not ours.
//! Never fails loudly: a packet that cannot be read is left to the stack or, for a service address, dropped by `tc`.

use svc_common::{AddrV4, AddrV6, FlowKey, Port, Protocol};

use crate::address::Address;
use crate::sctp;
use crate::tables::Packet;

pub const ETHERNET_LENGTH: usize = 14;
pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Offset of the checksum in the IPv4 header.
pub const IPV4_CHECKSUM: usize = 10;

pub mod tcp_flag {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

/// How much of its datagram a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    Whole,
    /// The one with the transport header.
    First,
    Later,
}

impl Fragment {
    /// From the fragment offset (in any unit) and the flag More Fragments.
    #[inline(always)]
    fn new(offset: u16, more: bool) -> Self {
        match (offset, more) {
            (0, false) => Self::Whole,
            (0, true) => Self::First,
            _ => Self::Later,
        }
    }
}

/// What was read from one packet.
#[derive(Clone, Copy, Debug)]
pub struct Headers<A> {
    /// Its tuple; the ports are zero until [`parse_transport`] has read them.
    pub key: FlowKey<A>,
    /// Offset of the transport header.
    pub transport_offset: usize,
    /// Where the packet ends by its own account; what follows is padding. Less than the headers for packets beyond
    /// 64 KiB, which say zero (BIG TCP).
    pub end: u32,
    pub fragment: Fragment,
    /// Bits of [`tcp_flag`], also for SCTP (see `sctp`); zero for UDP.
    pub tcp_flags: u8,
}

impl<A: Address> Headers<A> {
    /// Until the ports are known, the identification of a fragmented datagram lies in their place: the kernel's stack
    /// has no room for both.
    #[inline(always)]
    fn set_fragment(&mut self, fragment: Fragment, id: [u8; 4]) {
        let [i0, i1, i2, i3] = id;
        self.fragment = fragment;
        if fragment != Fragment::Whole {
            self.key.source_port = Port(u16::from_ne_bytes([i0, i1]));
            self.key.destination_port = Port(u16::from_ne_bytes([i2, i3]));
        }
    }

    /// The identification, in network byte order, before the ports are read.
    #[inline(always)]
    pub fn fragment_id(&self) -> u32 {
        let ([i0, i1], [i2, i3]) = (self.key.source_port.0.to_ne_bytes(), self.key.destination_port.0.to_ne_bytes());
        u32::from_ne_bytes([i0, i1, i2, i3])
    }

    #[inline(always)]
    fn new(source: A, destination: A, protocol: u8, stage: u8) -> Self {
        let key = FlowKey {
            source,
            destination,
            source_port: Port(0),
            destination_port: Port(0),
            protocol: Protocol(protocol),
            stage,
            zero: 0,
        };
        Self { key, transport_offset: A::TRANSPORT_OFFSET, end: 0, fragment: Fragment::Whole, tcp_flags: 0 }
    }
}

/// The first segment of a TCP connection.
#[inline(always)]
pub fn opens(tcp_flags: u8) -> bool {
    tcp_flags & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST) == tcp_flag::SYN
}

/// Families whose network header can be read and rewritten.
pub trait ParseNetwork: Address {
    fn parse_network<P: Packet>(packet: &P, stage: u8) -> Option<Headers<Self>>;
}

impl ParseNetwork for AddrV4 {
    #[inline(always)]
    fn parse_network<P: Packet>(packet: &P, stage: u8) -> Option<Headers<Self>> {
        let header: [u8; 20] = packet.load(ETHERNET_LENGTH)?;
        let [version_length, ..] = header;
        let header_length = (version_length & 0x0f) as usize * 4;
        if version_length >> 4 != 4 || header_length < 20 {
            return None;
        }
        let fragment_field = u16::from_be_bytes([header[6], header[7]]);
        let source = Self::from_octets([header[12], header[13], header[14], header[15]]);
        let destination = Self::from_octets([header[16], header[17], header[18], header[19]]);
        let mut headers = Headers::new(source, destination, header[9], stage);
        headers.transport_offset = ETHERNET_LENGTH + header_length;
        headers.end = ETHERNET_LENGTH as u32 + u16::from_be_bytes([header[2], header[3]]) as u32;
        // Offset in thirteen bits, above them More Fragments (RFC 791 §3.1).
        let fragment = Fragment::new(fragment_field & 0x1fff, fragment_field & 0x2000 != 0);
        headers.set_fragment(fragment, [0, 0, header[4], header[5]]);
        Some(headers)
    }
}

impl ParseNetwork for AddrV6 {
    #[inline(always)]
    fn parse_network<P: Packet>(packet: &P, stage: u8) -> Option<Headers<Self>> {
        const HOP_BY_HOP: u8 = 0;
        const ROUTING: u8 = 43;
        const FRAGMENT: u8 = 44;
        const DESTINATION_OPTIONS: u8 = 60;

        let [version, _, _, _, length_high, length_low, mut next_header, _]: [u8; 8] = packet.load(ETHERNET_LENGTH)?;
        if version >> 4 != 6 {
            return None;
        }
        let source: [u8; 16] = packet.load(ETHERNET_LENGTH + 8)?;
        let destination: [u8; 16] = packet.load(ETHERNET_LENGTH + 24)?;
        let mut headers = Headers::new(Self::from_octets(source), Self::from_octets(destination), 0, stage);
        headers.end = Self::TRANSPORT_OFFSET as u32 + u16::from_be_bytes([length_high, length_low]) as u32;
        // One extension header at most: nobody sends chains of them to a Service, and each more multiplies the ways
        // through the program that the verifier has to follow.
        if matches!(next_header, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
            let [next, length, high, low, i0, i1, i2, i3]: [u8; 8] = packet.load(Self::TRANSPORT_OFFSET)?;
            if next_header == FRAGMENT {
                // Offset in thirteen bits, below them two reserved and M (RFC 8200 §4.5).
                let fragment = Fragment::new(u16::from_be_bytes([high, low]) & 0xfff8, low & 1 != 0);
                headers.set_fragment(fragment, [i0, i1, i2, i3]);
                headers.transport_offset += 8;
            } else {
                headers.transport_offset += (length as usize + 1) * 8;
            }
            next_header = next;
        }
        headers.key.protocol = Protocol(next_header);
        Some(headers)
    }
}

/// Reads ports and flags of a TCP, UDP or SCTP packet; `None` if its header is cut off.
#[inline(always)]
pub fn parse_transport<A: Address, P: Packet>(packet: &P, headers: &mut Headers<A>) -> Option<()> {
    let offset = headers.transport_offset;
    let [s0, s1, d0, d1] = if headers.key.protocol == Protocol::TCP {
        let header: [u8; 20] = packet.load(offset)?;
        headers.tcp_flags = header[13];
        [header[0], header[1], header[2], header[3]]
    } else if headers.key.protocol == Protocol::SCTP {
        let header: [u8; sctp::HEADER] = packet.load(offset)?;
        headers.tcp_flags = sctp::flags(header[12]);
        [header[0], header[1], header[2], header[3]]
    } else {
        let header: [u8; 8] = packet.load(offset)?;
        [header[0], header[1], header[2], header[3]]
    };
    headers.key.source_port = Port(u16::from_ne_bytes([s0, s1]));
    headers.key.destination_port = Port(u16::from_ne_bytes([d0, d1]));
    Some(())
}

/// Offset of the checksum in the transport header.
#[inline(always)]
pub fn checksum_offset(protocol: Protocol, transport_offset: usize) -> usize {
    transport_offset + if protocol == Protocol::TCP { 16 } else { 6 }
}
