//! The packet of a TC program as `svc_datapath::Packet`: its linear part, made large enough at first, and what only the kernel
//! can do. Neighbours: `bytes` reads and writes it, `xdp` is the same for XDP.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::generated::{bpf_csum_update, bpf_l4_csum_replace, bpf_skb_change_tail, bpf_skb_pull_data};
use aya_ebpf::programs::TcContext;
use svc_common::{Family, Hop};
use svc_datapath::{Address, ChecksumPart, Packet, RewriteError, checksum};

use crate::bytes::{self, Bounds};
use crate::route::{self, Ends};
use crate::variant::HAVE_IPV6_CSUM_FLAG;

/// "The checksum is that of an IPv6 packet": without it CHECKSUM_COMPLETE is adjusted twice. Newer than the bindings.
const BPF_F_IPV6: u64 = 1 << 7;

/// `skb->protocol` of IPv6, in network byte order.
const ETH_P_IPV6: u32 = 0x86dd_u16.to_be() as u32;

/// Headers lie within this many bytes: Ethernet, the longest IPv4 header or IPv6 with an extension, TCP without options.
const HEADERS: u32 = 14 + 60 + 20;
/// Ports lie within this many bytes if nothing is unusual.
const PLAIN_V4: u32 = 14 + 20 + 8;
const PLAIN_V6: u32 = 14 + 40 + 8;

pub struct TcPacket<'a> {
    context: &'a TcContext,
}

impl<'a> TcPacket<'a> {
    /// Makes all headers directly accessible that there may be.
    #[inline(always)]
    pub fn new(context: &'a TcContext) -> Self {
        Self::with(context, HEADERS)
    }

    /// Makes those of a plain packet directly accessible. They nearly always are: of TCP the stack keeps nothing but the headers in the
    /// linear part, and for more than those it would have to copy them.
    #[inline(always)]
    pub fn plain(context: &'a TcContext) -> Self {
        let v6 = context.skb.protocol() == ETH_P_IPV6;
        Self::with(context, if v6 { PLAIN_V6 } else { PLAIN_V4 })
    }

    #[inline(always)]
    fn with(context: &'a TcContext, needed: u32) -> Self {
        let linear = (context.end() - context.start()) as u32;
        if linear < needed && linear < context.len() {
            let wanted = if context.len() < HEADERS { context.len() } else { HEADERS };
            // SAFETY: the context is the one the kernel passed. On failure the packet stays as it is, and loads
            // beyond its linear part say so.
            unsafe { bpf_skb_pull_data(context.skb.skb, wanted) };
        }
        Self { context }
    }

    #[inline(always)]
    pub fn context(&self) -> &'a TcContext {
        self.context
    }
}

impl Packet for TcPacket<'_> {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.context.len()
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        bytes::load(self.context, offset)
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), RewriteError> {
        bytes::store(self.context, offset, bytes)
    }

    #[inline(always)]
    fn update_checksum(
        &mut self,
        offset: usize,
        difference: u32,
        part: ChecksumPart,
        zero_is_none: bool,
    ) -> Result<(), RewriteError> {
        let mut flags = 0;
        if part == ChecksumPart::PseudoHeader {
            flags |= BPF_F_PSEUDO_HDR as u64;
            if HAVE_IPV6_CSUM_FLAG.load() != 0 && self.context.skb.protocol() == ETH_P_IPV6 {
                flags |= BPF_F_IPV6;
            }
        }
        if zero_is_none {
            flags |= BPF_F_MARK_MANGLED_0 as u64;
        }
        // SAFETY: the context is the one the kernel passed; a bad offset is refused by the helper.
        match unsafe { bpf_l4_csum_replace(self.context.skb.skb, offset as u32, 0, difference as u64, flags) } {
            0 => Ok(()),
            _ => Err(RewriteError),
        }
    }

    /// With one call of the kernel, which alone knows whether the checksum is complete or left to hardware: its answer
    /// shows which, and the ports' part, which never touches `skb->csum`, is then plain arithmetic.
    #[inline(always)]
    fn update_checksums(
        &mut self,
        offset: usize,
        addresses: u32,
        ports: u32,
        zero_is_none: bool,
    ) -> Result<(), RewriteError> {
        let marked = |field: u16| if zero_is_none && field == 0 { 0xffff } else { field };
        let old = u16::from_ne_bytes(self.load(offset).ok_or(RewriteError)?);
        self.update_checksum(offset, addresses, ChecksumPart::PseudoHeader, zero_is_none)?;
        let new = u16::from_ne_bytes(self.load(offset).ok_or(RewriteError)?);
        let complete = new == marked(checksum::replace_complete(old, addresses));
        let partial = new == marked(checksum::replace_partial(old, addresses));
        match (complete, partial) {
            (true, false) => self.store(offset, &marked(checksum::replace_complete(new, ports)).to_ne_bytes()),
            (false, true) => Ok(()),
            _ => self.update_checksum(offset, ports, ChecksumPart::Segment, zero_is_none),
        }
    }

    #[inline(always)]
    fn change_sum(&mut self, difference: u32) {
        // SAFETY: the context is the one the kernel passed. An error says that nobody summed the packet.
        unsafe { bpf_csum_update(self.context.skb.skb, difference) };
    }

    #[inline(always)]
    fn resize(&mut self, length: u32) -> Result<(), RewriteError> {
        // SAFETY: the context is the one the kernel passed.
        match unsafe { bpf_skb_change_tail(self.context.skb.skb, length, 0) } {
            0 => Ok(()),
            _ => Err(RewriteError),
        }
    }

    #[inline(always)]
    fn segment_size(&self) -> u32 {
        // SAFETY: the kernel passed a valid context.
        unsafe { (*self.context.skb.skb).gso_size }
    }

    #[inline(always)]
    fn route<A: Address>(&self, source: A, destination: A) -> Hop {
        let ends = Ends { source: source.wide(), destination: destination.wide(), v4: A::FAMILY == Family::V4 };
        let mut hop = Hop::default();
        route::find_hop(self.context, &ends, &mut hop);
        hop
    }
}

/// The packet's linear part.
impl Bounds for TcContext {
    #[inline(always)]
    fn start(&self) -> usize {
        // SAFETY: the kernel passed a valid context.
        unsafe { core::ptr::read_volatile(&raw const (*self.skb.skb).data) as usize }
    }

    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: the kernel passed a valid context.
        unsafe { core::ptr::read_volatile(&raw const (*self.skb.skb).data_end) as usize }
    }
}

/// The context's own `ifindex`, for packets that turn back.
#[inline(always)]
pub fn interface(context: &TcContext) -> u32 {
    // SAFETY: the kernel passed a valid context.
    unsafe { (*context.as_ptr().cast::<aya_ebpf::bindings::__sk_buff>()).ifindex }
}
