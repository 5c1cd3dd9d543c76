//! Frames and differences as text, for failures. Neighbours: [`super::case`] prints with it.

use std::fmt::Write as _;

use etherparse::{LaxSlicedPacket, TransportSlice};

use super::oracle;

/// One line about a frame, as tcpdump would say it, and whether it is right.
pub fn summary(frame: &[u8]) -> String {
    let mut text = format!("{} bytes", frame.len());
    if let (Some(to), Some(from)) = (frame.get(..6), frame.get(6..12)) {
        let _ = write!(text, ", {} > {}", mac(from), mac(to));
    }
    match LaxSlicedPacket::from_ethernet(frame) {
        Err(error) => {
            let _ = write!(text, ", unreadable: {error}");
        }
        Ok(packet) => {
            let _ = write!(text, "{}{}", network(&packet), transport(&packet));
        }
    }
    if let Err(error) = oracle::verify(frame) {
        let _ = write!(text, " [WRONG: {error}]");
    }
    text
}

fn mac(bytes: &[u8]) -> String {
    let parts: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}

fn network(packet: &LaxSlicedPacket<'_>) -> String {
    use etherparse::LaxNetSlice as Net;
    match &packet.net {
        Some(Net::Ipv4(ip)) => {
            let header = ip.header();
            let (from, to) = (header.source_addr(), header.destination_addr());
            format!(", {from} > {to}, ttl {}, id {:#06x}", header.ttl(), header.identification())
        }
        Some(Net::Ipv6(ip)) => {
            let header = ip.header();
            let (from, to) = (header.source_addr(), header.destination_addr());
            format!(", {from} > {to}, hops {}", header.hop_limit())
        }
        Some(Net::Arp(_)) => ", ARP".to_owned(),
        None => ", no IP".to_owned(),
    }
}

fn transport(packet: &LaxSlicedPacket<'_>) -> String {
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let flags: Vec<&str> =
                [(tcp.syn(), "SYN"), (tcp.ack(), "ACK"), (tcp.fin(), "FIN"), (tcp.rst(), "RST"), (tcp.psh(), "PSH")]
                    .into_iter()
                    .filter_map(|(set, name)| set.then_some(name))
                    .collect();
            format!(
                ", TCP {} > {} {} seq {} ack {} window {} checksum {:#06x}, {} bytes",
                tcp.source_port(),
                tcp.destination_port(),
                flags.join("+"),
                tcp.sequence_number(),
                tcp.acknowledgment_number(),
                tcp.window_size(),
                tcp.checksum(),
                tcp.payload().len()
            )
        }
        Some(TransportSlice::Udp(udp)) => {
            let (from, to) = (udp.source_port(), udp.destination_port());
            format!(", UDP {from} > {to} checksum {:#06x}, {} bytes", udp.checksum(), udp.payload().len())
        }
        Some(TransportSlice::Icmpv4(icmp)) => format!(
            ", ICMP type {} code {} checksum {:#06x} quoting {}",
            icmp.type_u8(),
            icmp.code_u8(),
            icmp.checksum(),
            quoted(icmp.payload())
        ),
        Some(TransportSlice::Icmpv6(icmp)) => format!(
            ", ICMPv6 type {} code {} checksum {:#06x} quoting {}",
            icmp.type_u8(),
            icmp.code_u8(),
            icmp.checksum(),
            quoted(icmp.payload())
        ),
        _ => String::new(),
    }
}

fn quoted(payload: &[u8]) -> String {
    match LaxSlicedPacket::from_ip(payload) {
        Ok(packet) => format!("({}{})", network(&packet).trim_start_matches(", "), transport(&packet)),
        Err(_) => format!("{} bytes", payload.len()),
    }
}

/// The bytes that differ, by offset; what they belong to is named for the usual offsets.
pub fn difference(expected: &[u8], actual: &[u8]) -> String {
    let mut text = format!("    expected: {}\n    actual:   {}\n", summary(expected), summary(actual));
    let longest = expected.len().max(actual.len());
    let differing: Vec<usize> = (0..longest).filter(|at| expected.get(*at) != actual.get(*at)).collect();
    let byte = |bytes: &[u8], at: usize| bytes.get(at).map_or("--".to_owned(), |byte| format!("{byte:02x}"));
    for at in differing.iter().take(32) {
        let _ = writeln!(text, "    byte {at}: expected {}, actual {}", byte(expected, *at), byte(actual, *at));
    }
    if differing.len() > 32 {
        let _ = writeln!(text, "    and {} more bytes", differing.len() - 32);
    }
    text
}

/// Lines that are only expected (`missing`) or only there (`extra`).
pub fn line_difference(expected: &[String], actual: &[String]) -> String {
    let mut text = String::new();
    for line in expected.iter().filter(|line| !actual.contains(line)) {
        let _ = writeln!(text, "    missing: {line}");
    }
    for line in actual.iter().filter(|line| !expected.contains(line)) {
        let _ = writeln!(text, "    extra:   {line}");
    }
    text
}

/// Whether a frame says it carries IP.
pub fn is_ip(frame: &[u8]) -> bool {
    matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]))
}
