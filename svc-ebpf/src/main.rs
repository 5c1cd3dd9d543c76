//! Kernel programs: thin entry points over `svc-datapath`; each TC program continues with its slow one by tail call, a
//! fragment with one more before that. Maps are in `maps`, facts fixed at load time in `variant`, the kernel side of the
//! datapath's traits in `packet`, `xdp` (both over `bytes`), `tables` and `sockaddr`.
#![no_std]
#![no_main]

mod bytes;
mod fragments;
mod maps;
mod packet;
mod route;
mod sockaddr;
mod tables;
mod trace;
mod variant;
mod xdp;

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::{cgroup_sock_addr, classifier, xdp};
use aya_ebpf::programs::{SockAddrContext, TcContext, XdpContext};
use svc_common::{DropReason, Hop, tail_call};
use svc_datapath::fast::{self, Fast};
use svc_datapath::hold::{self, Step};
use svc_datapath::{Action, Scratch, Side, Tables as _, tc};

use crate::packet::{TcPacket, interface};
use crate::tables::KernelTables;

/// `TC_ACT_UNSPEC` of a classifier: leave the verdict to the programs and filters behind this one.
const NEXT: i32 = -1;

/// Flags of bpf_redirect that send a packet back to where it came from.
const FROM_INGRESS: u64 = 0;
const FROM_EGRESS: u64 = BPF_F_INGRESS as u64;

#[classifier]
#[inline(always)]
pub fn pod_ingress(context: TcContext) -> i32 {
    ingress(&context, Side::Pod, tail_call::POD_INGRESS_FRAGMENT, tail_call::POD_INGRESS_SLOW)
}

#[classifier]
pub fn pod_ingress_fragment(context: TcContext) -> i32 {
    go_on(&context, hold::ingress(&mut TcPacket::new(&context), &KernelTables), tail_call::POD_INGRESS_SLOW)
}

#[classifier]
pub fn pod_ingress_slow(context: TcContext) -> i32 {
    slow(&context, FROM_INGRESS, |packet, scratch| tc::ingress(packet, &KernelTables, Side::Pod, scratch))
}

#[classifier]
#[inline(always)]
pub fn pod_egress(context: TcContext) -> i32 {
    egress(&context, arrive(&context), Side::Pod, tail_call::POD_EGRESS_FRAGMENT, tail_call::POD_EGRESS_SLOW)
}

#[classifier]
pub fn pod_egress_fragment(context: TcContext) -> i32 {
    go_on(&context, hold::egress(&mut TcPacket::new(&context), &KernelTables), tail_call::POD_EGRESS_SLOW)
}

#[classifier]
pub fn pod_egress_slow(context: TcContext) -> i32 {
    slow(&context, FROM_EGRESS, |packet, scratch| tc::egress(packet, &KernelTables, Side::Pod, scratch))
}

#[classifier]
#[inline(always)]
pub fn uplink_ingress(context: TcContext) -> i32 {
    ingress(&context, Side::Uplink, tail_call::UPLINK_INGRESS_FRAGMENT, tail_call::UPLINK_INGRESS_SLOW)
}

#[classifier]
pub fn uplink_ingress_fragment(context: TcContext) -> i32 {
    go_on(&context, hold::ingress(&mut TcPacket::new(&context), &KernelTables), tail_call::UPLINK_INGRESS_SLOW)
}

#[classifier]
pub fn uplink_ingress_slow(context: TcContext) -> i32 {
    slow(&context, FROM_INGRESS, |packet, scratch| tc::ingress(packet, &KernelTables, Side::Uplink, scratch))
}

#[classifier]
#[inline(always)]
pub fn uplink_egress(context: TcContext) -> i32 {
    let packet = arrive(&context);
    if route::is_local(&packet) {
        return route::deliver();
    }
    egress(&context, packet, Side::Uplink, tail_call::UPLINK_EGRESS_FRAGMENT, tail_call::UPLINK_EGRESS_SLOW)
}

#[classifier]
pub fn uplink_egress_fragment(context: TcContext) -> i32 {
    go_on(&context, hold::egress(&mut TcPacket::new(&context), &KernelTables), tail_call::UPLINK_EGRESS_SLOW)
}

#[classifier]
pub fn uplink_egress_slow(context: TcContext) -> i32 {
    slow(&context, FROM_EGRESS, |packet, scratch| tc::egress(packet, &KernelTables, Side::Uplink, scratch))
}

#[inline(always)]
fn ingress(context: &TcContext, side: Side, fragment: u32, slow: u32) -> i32 {
    let mut packet = arrive(context);
    match fast::ingress(&mut packet, &KernelTables, side) {
        Fast::Done(action) => depart(context, &packet, action, FROM_INGRESS),
        Fast::Forward(hop) => forward(context, &packet, &hop),
        Fast::Slow => continue_with(context, either(&packet, fragment, slow)),
    }
}

#[inline(always)]
fn egress(context: &TcContext, mut packet: TcPacket<'_>, side: Side, fragment: u32, slow: u32) -> i32 {
    match fast::egress(&mut packet, &KernelTables, side) {
        Some(action) => depart(context, &packet, action, FROM_EGRESS),
        None => continue_with(context, either(&packet, fragment, slow)),
    }
}

#[inline(always)]
fn slow(context: &TcContext, back: u64, path: impl FnOnce(&mut TcPacket<'_>, &mut Scratch) -> Action) -> i32 {
    let mut packet = TcPacket::new(context);
    let Some(scratch) = scratch() else { return NEXT };
    let action = path(&mut packet, scratch);
    depart(context, &packet, action, back)
}

/// What a packet goes on with: fragments have to come in order.
#[inline(always)]
fn either(packet: &TcPacket<'_>, fragment: u32, other: u32) -> u32 {
    if hold::is_fragment(packet) { fragment } else { other }
}

#[inline(always)]
fn go_on(context: &TcContext, step: Step, slow: u32) -> i32 {
    match step {
        Step::Proceed => continue_with(context, slow),
        Step::Gone => TC_ACT_SHOT,
    }
}

/// Memory of this CPU, which nobody else uses while a program runs. It is always there, but the verifier wants it tested.
#[inline(always)]
fn scratch<'a>() -> Option<&'a mut Scratch> {
    // SAFETY: a valid map element of this CPU; each program asks once.
    maps::SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}

/// Goes on in another program; does not come back, unless that is missing: then this packet is nobody's business.
#[inline(always)]
fn continue_with(context: &TcContext, index: u32) -> i32 {
    // SAFETY: the context is the one the kernel passed, and nothing here is to be dropped.
    unsafe { maps::PROGRAMS.tail_call(context, index) };
    NEXT
}

#[inline(always)]
fn arrive(context: &TcContext) -> TcPacket<'_> {
    let packet = TcPacket::plain(context);
    trace::arrival(context, &packet);
    packet
}

/// `back` is [`FROM_INGRESS`] or [`FROM_EGRESS`].
#[inline(always)]
fn depart(context: &TcContext, packet: &TcPacket<'_>, action: Action, back: u64) -> i32 {
    trace::departure(context, packet, action);
    match action {
        Action::Pass => NEXT,
        Action::Drop(_) => TC_ACT_SHOT,
        // SAFETY: a helper that takes plain numbers.
        Action::TurnBack => unsafe { bpf_redirect(interface(context), back) as i32 },
        Action::Reroute => {
            let way = route::reroute(context, packet);
            match (way, back) {
                // What comes in is for the node itself: the stack may still take it.
                (TC_ACT_SHOT, FROM_INGRESS) => NEXT,
                (TC_ACT_SHOT, _) => {
                    KernelTables.count_drop(DropReason::NoRoute);
                    TC_ACT_SHOT
                }
                _ => way,
            }
        }
        Action::Again => continue_with(context, tail_call::POD_INGRESS),
    }
}

#[inline(always)]
fn forward(context: &TcContext, packet: &TcPacket<'_>, hop: &Hop) -> i32 {
    trace::forwarded(context, packet);
    route::forward(context, hop)
}

#[xdp]
pub fn uplink_xdp(context: XdpContext) -> u32 {
    xdp::run(&context)
}

#[cgroup_sock_addr(bind4)]
pub fn bind4(context: SockAddrContext) -> i32 {
    sockaddr::bind(&context)
}

#[cgroup_sock_addr(bind6)]
pub fn bind6(context: SockAddrContext) -> i32 {
    sockaddr::bind(&context)
}

#[cgroup_sock_addr(connect4)]
pub fn connect4(context: SockAddrContext) -> i32 {
    sockaddr::connect4(&context)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(context: SockAddrContext) -> i32 {
    sockaddr::connect6(&context)
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(context: SockAddrContext) -> i32 {
    sockaddr::peer4(&context)
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(context: SockAddrContext) -> i32 {
    sockaddr::peer6(&context)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // No code path may reach this: the verifier refuses a program with an endless loop.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
