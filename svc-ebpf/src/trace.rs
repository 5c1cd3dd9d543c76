//! Packet-by-packet trace through aya-log, for debugging. Folded away by the verifier unless `--trace-packets` is given.

use aya_ebpf::programs::TcContext;
use aya_log_ebpf::info;
use svc_datapath::{Action, ETHERNET_LENGTH, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet as _};

use crate::packet::{TcPacket, interface};
use crate::variant::TRACE;

/// One line for a packet as it came in.
#[inline(always)]
pub fn arrival(context: &TcContext, packet: &TcPacket<'_>) {
    if TRACE.load() != 0 {
        line(context, packet, "in");
    }
}

/// One line for what became of it.
#[inline(always)]
pub fn departure(context: &TcContext, packet: &TcPacket<'_>, action: Action) {
    if TRACE.load() != 0 {
        let verdict = match action {
            Action::Pass => "pass",
            Action::Drop(reason) => reason.label(),
            Action::TurnBack => "turn back",
            Action::Reroute => "reroute",
            Action::Again => "flow entered",
        };
        line(context, packet, verdict);
    }
}

/// One line for a packet that leaves past the stack.
#[inline(always)]
pub fn forwarded(context: &TcContext, packet: &TcPacket<'_>) {
    if TRACE.load() != 0 {
        line(context, packet, "forward");
    }
}

/// Out of line: its log record would not fit beside a program's own stack.
#[inline(never)]
fn line(context: &TcContext, packet: &TcPacket<'_>, verdict: &str) {
    let interface = interface(context);
    // Zeros where the packet is too short, rather than an `Option`: the compiler would compute with the undefined value
    // of the `None` case before it tests for it, and the verifier refuses that.
    let ethertype = u16::from_be_bytes(packet.load(12).unwrap_or([0; 2]));
    if ethertype == ETHERTYPE_IPV4 {
        let header: [u8; 24] = packet.load(ETHERNET_LENGTH).unwrap_or([0; 24]);
        let [.., s0, s1, s2, s3, d0, d1, d2, d3, sp0, sp1, dp0, dp1] = header;
        info!(
            context,
            "{} if {} {:i}:{} -> {:i}:{} protocol {}",
            verdict,
            interface,
            u32::from_be_bytes([s0, s1, s2, s3]),
            u16::from_be_bytes([sp0, sp1]),
            u32::from_be_bytes([d0, d1, d2, d3]),
            u16::from_be_bytes([dp0, dp1]),
            header[9]
        );
    } else if ethertype == ETHERTYPE_IPV6 {
        let source: [u8; 16] = packet.load(ETHERNET_LENGTH + 8).unwrap_or([0; 16]);
        let destination: [u8; 16] = packet.load(ETHERNET_LENGTH + 24).unwrap_or([0; 16]);
        info!(context, "{} if {} {:i} -> {:i}", verdict, interface, source, destination);
    }
}
