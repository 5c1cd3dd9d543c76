//! Judges finished frames: lengths and checksums as etherparse computes them. Must not use code of the datapath.

use etherparse::{LaxSlicedPacket, NetSlice, SlicedPacket, TransportSlice};

/// Why a frame is wrong, in words; `Ok` for frames that are no IP packets or fragments (their headers are checked).
pub fn verify(frame: &[u8]) -> Result<(), String> {
    let packet = SlicedPacket::from_ethernet(frame).map_err(|error| format!("not parseable: {error}"))?;
    let same = |what: &str, found: u16, right: u16, none: bool| {
        // 0 and 0xffff are the same number in ones' complement.
        let equal = found == right || (found ^ right == 0xffff && (found == 0 || right == 0));
        match equal || (none && found == 0) {
            true => Ok(()),
            false => Err(format!("{what} checksum is {found:#06x}, should be {right:#06x}")),
        }
    };
    let text = |error: etherparse::err::ValueTooBigError<usize>| error.to_string();
    match packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            same("IPv4 header", header.header_checksum, header.calc_header_checksum(), false)?;
            if ip.is_payload_fragmented() {
                return Ok(());
            }
            let (source, destination) = (header.source, header.destination);
            match packet.transport {
                Some(TransportSlice::Tcp(tcp)) => {
                    let right = tcp.calc_checksum_ipv4(source, destination).map_err(text)?;
                    same("TCP", tcp.checksum(), right, false)
                }
                Some(TransportSlice::Udp(udp)) => {
                    let right = udp.to_header().calc_checksum_ipv4_raw(source, destination, udp.payload());
                    same("UDP", udp.checksum(), right.map_err(text)?, true)
                }
                Some(TransportSlice::Icmpv4(icmp)) => {
                    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(icmp.slice());
                    if sum.ones_complement() == 0 { Ok(()) } else { Err("ICMP checksum is wrong".to_owned()) }
                }
                _ => Ok(()),
            }
        }
        Some(NetSlice::Ipv6(ip)) if !ip.is_payload_fragmented() => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            match packet.transport {
                Some(TransportSlice::Tcp(tcp)) => {
                    let right = tcp.calc_checksum_ipv6(source, destination).map_err(text)?;
                    same("TCP", tcp.checksum(), right, false)
                }
                Some(TransportSlice::Udp(udp)) => {
                    let right = udp.to_header().calc_checksum_ipv6_raw(source, destination, udp.payload());
                    same("UDP", udp.checksum(), right.map_err(text)?, false)
                }
                Some(TransportSlice::Icmpv6(icmp)) if !icmp.is_checksum_valid(source, destination) => {
                    Err("ICMPv6 checksum is wrong".to_owned())
                }
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Whether a frame is complete as its own headers describe it.
pub fn is_well_formed(frame: &[u8]) -> bool {
    LaxSlicedPacket::from_ethernet(frame).is_ok_and(|packet| packet.stop_err.is_none())
        && SlicedPacket::from_ethernet(frame).is_ok()
}
