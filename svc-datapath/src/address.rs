//! What the two address families have in common, so that everything behind parsing is written once.

use svc_common::{AddrV4, AddrV6, Family, FlowEntry};

use crate::filter;
use crate::tables::Scratch;

/// An IPv4 or IPv6 address.
pub trait Address: Copy + Eq {
    const FAMILY: Family;
    /// The network header has a checksum of its own, which takes up a change of its addresses.
    const HEADER_CHECKSUM: bool;
    /// Offset of the transport header behind a network header without options or extensions.
    const TRANSPORT_OFFSET: usize;

    fn wide(self) -> AddrV6;
    fn from_wide(address: AddrV6) -> Self;
    fn filter_slot(self) -> u32;
    /// `0.0.0.0` or `::`
    fn is_unspecified(self) -> bool;
    /// Ones' complement sum of the address's words (see [`crate::checksum`]).
    fn sum(self) -> u32;
    /// Room for an entry of the family's flow table.
    fn entry(scratch: &mut Scratch) -> &mut FlowEntry<Self>;
}

impl Address for AddrV4 {
    const FAMILY: Family = Family::V4;
    const HEADER_CHECKSUM: bool = true;
    const TRANSPORT_OFFSET: usize = 34;

    #[inline(always)]
    fn wide(self) -> AddrV6 {
        self.into()
    }

    #[inline(always)]
    fn from_wide(address: AddrV6) -> Self {
        Self(address.0[0])
    }

    #[inline(always)]
    fn filter_slot(self) -> u32 {
        filter::slot_v4(self)
    }

    #[inline(always)]
    fn is_unspecified(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    fn sum(self) -> u32 {
        self.0
    }

    #[inline(always)]
    fn entry(scratch: &mut Scratch) -> &mut FlowEntry<Self> {
        &mut scratch.v4
    }
}

impl Address for AddrV6 {
    const FAMILY: Family = Family::V6;
    const HEADER_CHECKSUM: bool = false;
    const TRANSPORT_OFFSET: usize = 54;

    #[inline(always)]
    fn wide(self) -> AddrV6 {
        self
    }

    #[inline(always)]
    fn from_wide(address: AddrV6) -> Self {
        address
    }

    #[inline(always)]
    fn filter_slot(self) -> u32 {
        filter::slot_v6(self)
    }

    #[inline(always)]
    fn is_unspecified(self) -> bool {
        let [a, b, c, d] = self.0;
        a | b | c | d == 0
    }

    #[inline(always)]
    fn sum(self) -> u32 {
        crate::checksum::fold_words(self.0)
    }

    #[inline(always)]
    fn entry(scratch: &mut Scratch) -> &mut FlowEntry<Self> {
        &mut scratch.v6
    }
}
