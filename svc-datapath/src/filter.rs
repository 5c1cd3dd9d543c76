//! Which slot of the address filter an address has. Kernel and agent must agree, so it stands here once.

use svc_common::{ADDRESS_FILTER_SLOTS, AddrV4, AddrV6};

/// Multiplicative (Fibonacci) hashing: the high bits of the product are well mixed, one multiply is all it costs.
const fn spread(word: u64) -> u32 {
    let product = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (product >> (64 - ADDRESS_FILTER_SLOTS.trailing_zeros())) as u32
}

/// Slot of an IPv4 address: `slot / 8` is the map index, `slot % 8` the byte in the little-endian word.
#[inline(always)]
pub const fn slot_v4(address: AddrV4) -> u32 {
    spread(address.0 as u64)
}

/// Slot of an IPv6 address.
#[inline(always)]
pub const fn slot_v6(address: AddrV6) -> u32 {
    let [a, b, c, d] = address.0;
    let high = (a as u64) << 32 | b as u64;
    let low = (c as u64) << 32 | d as u64;
    spread(high.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ low)
}
