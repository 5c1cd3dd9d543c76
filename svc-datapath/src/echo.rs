//! Ping to a service address. Nobody has the address, so the packet itself is turned into the answer while a service
//! there has an endpoint, and refused as a connection would be otherwise. The marker of the address says which.
//! Neighbours: `tc` calls it, `refuse` writes the refusal.

use svc_common::{AddrV4, AddrV6, DropReason, Flow, FrontendKey, Port, address_marker};

use crate::checksum;
use crate::icmp::Icmp;
use crate::parse::{ETHERNET_LENGTH, Fragment, Headers};
use crate::refuse::{Refuse, TTL};
use crate::rewrite::swap_ethernet;
use crate::tables::{Action, ChecksumPart, FamilyTables, Packet, RewriteError, Tables};
use crate::verdict::{give_up, reject};

/// Type, code, checksum, identifier and sequence number.
const ECHO_HEADER: usize = 8;

/// Families in which a ping can be answered.
pub trait Echo: Icmp + Refuse {
    const REQUEST: u8;
    const REPLY: u8;
    /// Offset in the network header of the two bytes of which one is TTL or hop limit.
    const HOPS: usize;

    /// The same two bytes in a packet that begins its way here.
    fn restart_hops(word: [u8; 2]) -> [u8; 2];
}

impl Echo for AddrV4 {
    const REQUEST: u8 = 8;
    const REPLY: u8 = 0;
    const HOPS: usize = 8;

    #[inline(always)]
    fn restart_hops([_, protocol]: [u8; 2]) -> [u8; 2] {
        [TTL, protocol]
    }
}

impl Echo for AddrV6 {
    const REQUEST: u8 = 128;
    const REPLY: u8 = 129;
    const HOPS: usize = 6;

    #[inline(always)]
    fn restart_hops([next_header, _]: [u8; 2]) -> [u8; 2] {
        [next_header, TTL]
    }
}

/// An ICMP message to what may be a service address; `None` if it is no ping, or not to a service. Out of line, as
/// everything that only happens now and then.
///
/// Of a fragmented ping each fragment is turned back by itself: the client puts them together again.
#[inline(never)]
pub fn answer<A: Echo, P: Packet, T: Tables + FamilyTables<A>>(
    packet: &mut P,
    tables: &T,
    headers: &mut Headers<A>,
) -> Option<Action> {
    if headers.end > packet.length() {
        return None;
    }
    if headers.fragment != Fragment::Later {
        let [kind, ..]: [u8; ECHO_HEADER] = packet.load(headers.transport_offset)?;
        if kind != A::REQUEST {
            return None;
        }
    }
    let marker = tables.frontend(&FrontendKey::marker(headers.key.destination))?;
    // Where the identification of a fragment was; events show ports there.
    (headers.key.source_port, headers.key.destination_port) = (Port(0), Port(0));
    let none = Flow::<A>::NO_SERVICE;
    Some(match marker {
        address_marker::ANSWERS => match turn(packet, headers) {
            Ok(()) => Action::TurnBack,
            Err(RewriteError) => give_up(tables, headers, none, DropReason::RewriteFailed),
        },
        address_marker::DROPS => give_up(tables, headers, none, DropReason::NoLocalEndpoint),
        // The first fragment is refused for all.
        _ if headers.fragment == Fragment::Later => give_up(tables, headers, none, DropReason::NoEndpoint),
        _ => reject(packet, tables, headers, none, DropReason::NoEndpoint),
    })
}

/// Makes the request the reply. What it carries stays, wherever in memory it lies.
#[inline(always)]
fn turn<A: Echo, P: Packet>(packet: &mut P, headers: &Headers<A>) -> Result<(), RewriteError> {
    let word = |bytes: [u8; 2]| u16::from_ne_bytes(bytes) as u32;
    if headers.fragment != Fragment::Later {
        let at = headers.transport_offset;
        let [_, code]: [u8; 2] = packet.load(at).ok_or(RewriteError)?;
        let difference = checksum::difference(word([A::REPLY, code]), word([A::REQUEST, code]));
        packet.update_checksum(at + 2, difference, ChecksumPart::Segment, false)?;
        packet.store(at, &[A::REPLY, code])?;
    }
    let before: [u8; 2] = packet.load(ETHERNET_LENGTH + A::HOPS).ok_or(RewriteError)?;
    let hops = A::restart_hops(before);
    // The addresses only change places, which no sum notices.
    let difference = checksum::difference(word(hops), word(before));
    packet.store(ETHERNET_LENGTH + A::HOPS, &hops)?;
    A::store_addresses(packet, ETHERNET_LENGTH, headers.key.destination, headers.key.source, difference)?;
    if !A::HEADER_CHECKSUM {
        packet.change_sum(difference);
    }
    swap_ethernet(packet)
}
