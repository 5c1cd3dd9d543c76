//! Held fragments: whole packets between a map and the packet at hand, and copies that come to a hook again. Rules are in
//! `svc_datapath::hold`.

use aya_ebpf::bindings::{BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM, BPF_NOEXIST};
use aya_ebpf::helpers::generated::{bpf_clone_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use svc_common::{FragmentKey, HeldFragment, HeldKey, flow_stage};
use svc_datapath::{ETHERNET_LENGTH, Fragments, Packet as _};

use crate::maps;
use crate::packet::{TcPacket, interface};
use crate::tables::KernelTables;

/// No network header is shorter.
const LEAST: u32 = 20;
const MASK: u32 = 0x7ff;
const _: () = assert!((LEAST + MASK) as usize <= HeldFragment::CAPACITY);

/// A length the verifier can see the bounds of: it knows masks, where the compiler's way of comparing hides them.
#[inline(always)]
fn bounded(length: u32) -> Option<u32> {
    let beyond = length.wrapping_sub(LEAST);
    if beyond > MASK {
        return None;
    }
    Some((core::hint::black_box(beyond) & MASK) + LEAST)
}

impl Fragments<TcPacket<'_>> for KernelTables {
    #[inline(always)]
    fn forget_fragment(&self, key: &FragmentKey) {
        let _ = maps::FRAGMENTS.remove(key);
    }

    #[inline(always)]
    fn hold(&self, packet: &TcPacket<'_>, key: &HeldKey, now: u32) -> bool {
        let Some(length) = bounded(packet.length().wrapping_sub(ETHERNET_LENGTH as u32)) else { return false };
        let Some(scratch) = maps::FRAGMENT_SCRATCH.get_ptr_mut(0) else { return false };
        // SAFETY: a valid map element of this CPU, longer than `bounded` allows; nothing else uses it while this program
        // runs, since whatever could interrupt it carries no packets.
        unsafe {
            let to = (&raw mut (*scratch).packet).cast();
            if bpf_skb_load_bytes(skb(packet.context()).cast(), ETHERNET_LENGTH as u32, to, length) != 0 {
                return false;
            }
            (*scratch).length = length;
            (*scratch).since = now;
            let held: &HeldFragment = &*scratch;
            maps::HELD_FRAGMENTS.insert(key, held, BPF_NOEXIST as u64).is_ok()
        }
    }

    #[inline(always)]
    fn held_since(&self, key: &HeldKey) -> Option<u32> {
        // SAFETY: a valid map element.
        maps::HELD_FRAGMENTS.get_ptr(key).map(|held| unsafe { (*held).since })
    }

    #[inline(always)]
    fn take_held(&self, packet: &mut TcPacket<'_>, key: &HeldKey) -> bool {
        let Some(held) = maps::HELD_FRAGMENTS.get_ptr(key) else { return false };
        // SAFETY: a valid map element, longer than `bounded` allows. If it is used anew while it is copied, then the entry
        // is gone afterwards, and the copy is not used.
        let replaced = unsafe {
            bounded((*held).length).is_some_and(|length| {
                let skb = skb(packet.context());
                let from = (&raw const (*held).packet).cast();
                let behind = ETHERNET_LENGTH as u32;
                bpf_skb_change_tail(skb, behind + length, 0) == 0
                    && bpf_skb_store_bytes(skb, behind, from, length, BPF_F_RECOMPUTE_CSUM as u64) == 0
            })
        };
        self.forget_held(key) && replaced
    }

    #[inline(always)]
    fn forget_held(&self, key: &HeldKey) -> bool {
        maps::HELD_FRAGMENTS.remove(key).is_ok()
    }

    #[inline(always)]
    fn send_again(&self, packet: &TcPacket<'_>, stage: u8) {
        let flags = if stage == flow_stage::INGRESS { BPF_F_INGRESS } else { 0 };
        let context = packet.context();
        // SAFETY: the context is the one the kernel passed.
        unsafe { bpf_clone_redirect(skb(context), interface(context), flags as u64) };
    }
}

#[inline(always)]
fn skb(context: &TcContext) -> *mut aya_ebpf::bindings::__sk_buff {
    context.skb.skb
}
