//! The packet of an XDP program as `svc_datapath`'s `Packet` and `Arrival`: direct access, checksums where they lie, and the
//! routing table by bpf_fib_lookup. Must not decide anything. Neighbour: `packet`, the same for TC.

use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup, xdp_action, xdp_md};
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_redirect};
use aya_ebpf::programs::XdpContext;
use svc_common::{AddrV4, Family, Hop, Uplink, hop_kind};
use svc_datapath::express::{self, Arrival, Express, Journey, Uplinks, Way};
use svc_datapath::{Address, ChecksumPart, ETHERNET_LENGTH, Packet, RewriteError, checksum};

use crate::maps;
use crate::packet::{MAX_OFFSET, copy};
use crate::route::{AF_INET, AF_INET6};
use crate::tables::KernelTables;
use crate::variant::TRACE;

pub struct XdpPacket<'a> {
    context: &'a XdpContext,
}

/// With `--trace-packets` every packet goes where its way is logged.
#[inline(always)]
pub fn run(context: &XdpContext) -> u32 {
    if TRACE.load() != 0 {
        return xdp_action::XDP_PASS;
    }
    match express::ingress(&mut XdpPacket { context }, &KernelTables) {
        Express::Pass => xdp_action::XDP_PASS,
        Express::Back => xdp_action::XDP_TX,
        Express::Drop(_) => xdp_action::XDP_DROP,
        // SAFETY: a helper that takes plain numbers.
        Express::Out(interface) => unsafe { bpf_redirect(interface, 0) as u32 },
    }
}

impl XdpPacket<'_> {
    /// Address of `N` bytes at `offset`, if the packet has them.
    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<*mut u8> {
        // The compiler turns a test for one byte into `start < end`, which the verifier does not take as proof.
        const { assert!(N > 1) };
        if offset > MAX_OFFSET {
            return None;
        }
        let start = data(self.context) + offset;
        (start + N <= data_end(self.context)).then_some(start as *mut u8)
    }
}

impl Packet for XdpPacket<'_> {
    #[inline(always)]
    fn length(&self) -> u32 {
        (data_end(self.context) - data(self.context)) as u32
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let from = self.at::<N>(offset)?;
        let mut bytes = [0; N];
        // SAFETY: `at` checked the bounds.
        unsafe { copy::<N>(from, bytes.as_mut_ptr()) };
        Some(bytes)
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), RewriteError> {
        let to = self.at::<N>(offset).ok_or(RewriteError)?;
        // SAFETY: `at` checked the bounds; an XDP program may write to its packet.
        unsafe { copy::<N>(bytes.as_ptr(), to) };
        Ok(())
    }

    /// Always complete: `express` leaves the others alone.
    #[inline(always)]
    fn update_checksum(
        &mut self,
        offset: usize,
        difference: u32,
        _part: ChecksumPart,
        zero_is_none: bool,
    ) -> Result<(), RewriteError> {
        let old = u16::from_ne_bytes(self.load(offset).ok_or(RewriteError)?);
        if zero_is_none && old == 0 {
            return Ok(());
        }
        let new = checksum::replace_complete(old, difference);
        let new = if zero_is_none && new == 0 { 0xffff } else { new };
        self.store(offset, &new.to_ne_bytes())
    }

    #[inline(always)]
    fn update_checksums(
        &mut self,
        offset: usize,
        addresses: u32,
        ports: u32,
        zero_is_none: bool,
    ) -> Result<(), RewriteError> {
        self.update_checksum(offset, checksum::add(addresses, ports), ChecksumPart::Segment, zero_is_none)
    }

    /// Nobody has summed the packet yet.
    #[inline(always)]
    fn change_sum(&mut self, _difference: u32) {}

    #[inline(always)]
    fn resize(&mut self, _length: u32) -> Result<(), RewriteError> {
        Err(RewriteError)
    }

    #[inline(always)]
    fn segment_size(&self) -> u32 {
        0
    }

    /// See [`Arrival::way`].
    #[inline(always)]
    fn route<A: Address>(&self, _source: A, _destination: A) -> Hop {
        Hop { kind: hop_kind::STACK, ..Hop::default() }
    }
}

impl Arrival for XdpPacket<'_> {
    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: the kernel passed a valid context.
        unsafe { (*self.context.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn way<A: Address>(&self, journey: &Journey<A>) -> Option<Way> {
        const FLOW_INFORMATION: u32 = 0x0fff_ffff_u32.to_be();

        // SAFETY: plain numbers, for which zero is valid.
        let mut lookup: FibLookup = unsafe { core::mem::zeroed() };
        let first: [u8; 4] = self.load(ETHERNET_LENGTH)?;
        lookup.ifindex = self.interface();
        lookup.l4_protocol = journey.protocol;
        lookup.sport = journey.source_port;
        lookup.dport = journey.destination_port;
        lookup.__bindgen_anon_1.tot_len = journey.length;
        let (source, destination) = (journey.source.wide(), journey.destination.wide());
        if A::FAMILY == Family::V4 {
            let [_, class, ..] = first;
            lookup.family = AF_INET;
            lookup.__bindgen_anon_2.tos = class;
            lookup.__bindgen_anon_3.ipv4_src = AddrV4::from_wide(source).0;
            lookup.__bindgen_anon_4.ipv4_dst = AddrV4::from_wide(destination).0;
        } else {
            lookup.family = AF_INET6;
            lookup.__bindgen_anon_2.flowinfo = u32::from_ne_bytes(first) & FLOW_INFORMATION;
            lookup.__bindgen_anon_3.ipv6_src = source.0;
            lookup.__bindgen_anon_4.ipv6_dst = destination.0;
        }
        let context: *mut xdp_md = self.context.ctx;
        // SAFETY: the context is the one the kernel passed, the lookup lies on the stack with the size given.
        let answer = unsafe { bpf_fib_lookup(context.cast(), &raw mut lookup, size_of::<FibLookup>() as i32, 0) };
        if answer != BPF_FIB_LKUP_RET_SUCCESS as i64 {
            return None;
        }
        Some(Way { interface: lookup.ifindex, destination: lookup.dmac, source: lookup.smac })
    }
}

impl Uplinks for KernelTables {
    #[inline(always)]
    fn uplink(&self, interface: u32) -> Option<Uplink> {
        // SAFETY: a valid map element; the agent replaces it whole.
        maps::UPLINKS.get_ptr(interface).map(|uplink| unsafe { *uplink })
    }

    #[inline(always)]
    fn count_express(&self) {
        if let Some(counter) = maps::EXPRESS_COUNTER.get_ptr_mut(0) {
            // SAFETY: a valid map element of this CPU.
            unsafe { *counter += 1 };
        }
    }
}

/// Start of the packet. Volatile, here and below, as in `packet`.
#[inline(always)]
fn data(context: &XdpContext) -> usize {
    // SAFETY: the kernel passed a valid context.
    unsafe { core::ptr::read_volatile(&raw const (*context.ctx).data) as usize }
}

#[inline(always)]
fn data_end(context: &XdpContext) -> usize {
    // SAFETY: the kernel passed a valid context.
    unsafe { core::ptr::read_volatile(&raw const (*context.ctx).data_end) as usize }
}
