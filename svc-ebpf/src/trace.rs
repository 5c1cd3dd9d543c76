//! Packet-by-packet trace through aya-log, for debugging. Folded away by the verifier unless `--trace-packets` is given.

use aya_ebpf::programs::TcContext;
use aya_log_ebpf::info;
use svc_datapath::{Action, Packet as _};

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
        };
        line(context, packet, verdict);
    }
}

/// Out of line: its log record would not fit beside a program's own stack.
#[inline(never)]
fn line(context: &TcContext, packet: &TcPacket<'_>, verdict: &str) {
    let interface = interface(context);
    if let Some([0x08, 0x00]) = packet.load::<2>(12)
        && let Some(header) = packet.load::<24>(14)
    {
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
    } else if let Some([0x86, 0xdd]) = packet.load::<2>(12)
        && let Some(source) = packet.load::<16>(22)
        && let Some(destination) = packet.load::<16>(38)
    {
        info!(context, "{} if {} {:i} -> {:i}", verdict, interface, source, destination);
    }
}
