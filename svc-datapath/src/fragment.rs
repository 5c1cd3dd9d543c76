//! Fragmented datagrams: the first fragment tells the ports, the others are recognized by the datagram's identification.
//! A fragment that overtakes the first is lost: nothing here can hold packets back.

use svc_common::{FragmentKey, FragmentPorts};

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
    let key = FragmentKey {
        source: headers.key.source.wide(),
        destination: headers.key.destination.wide(),
        id,
        protocol: headers.key.protocol,
        stage: headers.key.stage,
        zero: 0,
    };
    if headers.fragment == Fragment::First {
        let (source_port, destination_port) = (headers.key.source_port, headers.key.destination_port);
        tables.set_fragment(&key, &FragmentPorts { source_port, destination_port });
        return Some(());
    }
    let ports = tables.fragment(&key)?;
    headers.key.source_port = ports.source_port;
    headers.key.destination_port = ports.destination_port;
    Some(())
}
