//! Fragmented datagrams: the first fragment tells the ports, the others are recognized by the datagram's identification.
//! Neighbours: `hold` sees to it that the first one comes first.

use svc_common::{FlowKey, FragmentKey, FragmentPorts};

use crate::address::Address;
use crate::parse::{Fragment, Headers, parse_transport};
use crate::tables::{Packet, Tables};

/// Reads the ports of any packet, whole or not; `None` if they cannot be known, or the packet is cut off.
#[inline(always)]
pub fn read_ports<A: Address, P: Packet, T: Tables>(packet: &P, tables: &T, headers: &mut Headers<A>) -> Option<()> {
    if headers.end > packet.length() {
        return None;
    }
    let id = headers.fragment_id();
    if headers.fragment != Fragment::Later {
        parse_transport(packet, headers)?;
    }
    if headers.fragment != Fragment::Whole {
        known_ports(tables, headers, id)?;
    }
    Some(())
}

/// Out of line: fragments are rare, and the stack is small.
#[inline(never)]
fn known_ports<A: Address, T: Tables>(tables: &T, headers: &mut Headers<A>, id: u32) -> Option<()> {
    let key = datagram(&headers.key, id);
    if headers.fragment == Fragment::First {
        remember_ports(tables, &headers.key, &key);
        return Some(());
    }
    let ports = tables.fragment(&key)?;
    headers.key.source_port = ports.source_port;
    headers.key.destination_port = ports.destination_port;
    Some(())
}

/// Names the datagram that a fragment belongs to, at this stage.
#[inline(always)]
pub fn datagram<A: Address>(key: &FlowKey<A>, id: u32) -> FragmentKey {
    FragmentKey {
        source: key.source.wide(),
        destination: key.destination.wide(),
        id,
        protocol: key.protocol,
        stage: key.stage,
        zero: 0,
    }
}

/// Writes down the ports that the first fragment has.
#[inline(always)]
pub fn remember_ports<A, T: Tables>(tables: &T, key: &FlowKey<A>, datagram: &FragmentKey) {
    let (source_port, destination_port) = (key.source_port, key.destination_port);
    tables.set_fragment(datagram, &FragmentPorts { source_port, destination_port });
}
