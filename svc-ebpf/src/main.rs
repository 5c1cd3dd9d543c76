//! Kernel programs: thin entry points over `svc-datapath`. Maps are in `maps`, facts fixed at load time in `variant`.
#![no_std]
#![no_main]

mod maps;
mod variant;

use aya_ebpf::bindings::TC_ACT_OK;
use aya_ebpf::macros::{cgroup_sock_addr, classifier};
use aya_ebpf::programs::{SockAddrContext, TcContext};

macro_rules! classifiers {
    ($($name:ident),+) => { $(#[classifier] pub fn $name(ctx: TcContext) -> i32 { let _ = (variant::trace(), ctx.len()); TC_ACT_OK as i32 })+ };
}
classifiers!(pod_ingress, pod_egress, uplink_ingress, uplink_egress);

macro_rules! hooks {
    ($($name:ident = $hook:ident),+ $(,)?) => { $(#[cgroup_sock_addr($hook)] pub fn $name(_ctx: SockAddrContext) -> i32 { 1 })+ };
}
hooks!(connect4 = connect4, connect6 = connect6, sendmsg4 = sendmsg4, sendmsg6 = sendmsg6, recvmsg4 = recvmsg4, recvmsg6 = recvmsg6,
    getpeername4 = getpeername4, getpeername6 = getpeername6);

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // No code path may reach this: the verifier refuses a program with an endless loop.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
