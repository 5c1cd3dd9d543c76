//! The packet of an XDP program as `svc_datapath`'s `Packet` and `Arrival`: direct access, checksums where they lie, and the
//! routing table by bpf_fib_lookup. Must not decide anything. Neighbours: `bytes`, `route`; `packet`, the same for TC.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_SUCCESS, xdp_action};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::programs::XdpContext;
use svc_common::{Family, Hop, Uplink, hop_kind};
use svc_datapath::express::{self, Arrival, Express, Journey, Uplinks, Way};
use svc_datapath::{Address, ChecksumPart, ETHERNET_LENGTH, Packet, RewriteError, checksum};

use crate::bytes::{self, Bounds};
use crate::maps;
use crate::route::{self, Ends};
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

impl Packet for XdpPacket<'_> {
    #[inline(always)]
    fn length(&self) -> u32 {
        (self.context.end() - self.context.start()) as u32
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        bytes::load(self.context, offset)
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), RewriteError> {
        bytes::store(self.context, offset, bytes)
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

        let ends = Ends {
            source: journey.source.wide(),
            destination: journey.destination.wide(),
            v4: A::FAMILY == Family::V4,
        };
        let mut lookup = route::question(self.interface(), &ends);
        let first: [u8; 4] = self.load(ETHERNET_LENGTH)?;
        lookup.l4_protocol = journey.protocol;
        lookup.sport = journey.source_port;
        lookup.dport = journey.destination_port;
        lookup.__bindgen_anon_1.tot_len = journey.length;
        if ends.v4 {
            let [_, class, ..] = first;
            lookup.__bindgen_anon_2.tos = class;
        } else {
            lookup.__bindgen_anon_2.flowinfo = u32::from_ne_bytes(first) & FLOW_INFORMATION;
        }
        // SAFETY: the context is the one the kernel passed.
        let answer = unsafe { route::ask(self.context.as_ptr(), &mut lookup) };
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

impl Bounds for XdpContext {
    #[inline(always)]
    fn start(&self) -> usize {
        // SAFETY: the kernel passed a valid context.
        unsafe { core::ptr::read_volatile(&raw const (*self.ctx).data) as usize }
    }

    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: the kernel passed a valid context.
        unsafe { core::ptr::read_volatile(&raw const (*self.ctx).data_end) as usize }
    }
}
