//! Internet checksum arithmetic (RFC 1071, RFC 1624): ones' complement sums over words as they lie in memory, which
//! makes the result independent of byte order.

/// Sum of two partial sums, with end-around carry.
#[inline(always)]
pub const fn add(a: u32, b: u32) -> u32 {
    let sum = a as u64 + b as u64;
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

/// Difference that turns a sum with `old` in it into one with `new`.
#[inline(always)]
pub const fn difference(new: u32, old: u32) -> u32 {
    add(new, !old)
}

/// Sum of four words.
#[inline(always)]
pub const fn fold_words(words: [u32; 4]) -> u32 {
    let sum = words[0] as u64 + words[1] as u64 + words[2] as u64 + words[3] as u64;
    add(sum as u32, (sum >> 32) as u32)
}

/// The sixteen bits that go into a header, complemented.
#[inline(always)]
pub const fn finish(sum: u32) -> u16 {
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// Applies a difference to a checksum field.
#[inline(always)]
pub const fn apply(field: u16, difference: u32) -> u16 {
    finish(add(!field as u32 & 0xffff, difference))
}

/// What the kernel makes of a complete checksum (csum_replace_by_diff), bit for bit.
#[inline(always)]
pub const fn replace_complete(field: u16, difference: u32) -> u16 {
    finish(add(!(field as u32), difference))
}

/// What the kernel makes of the pseudo header's sum that hardware starts from (CHECKSUM_PARTIAL), bit for bit.
#[inline(always)]
pub const fn replace_partial(field: u16, difference: u32) -> u16 {
    !finish(add(field as u32, difference))
}

/// Sum of a byte string of even length, as words in memory order.
#[inline(always)]
pub fn sum_bytes<const N: usize>(bytes: &[u8; N]) -> u32 {
    let mut sum = 0;
    let mut at = 0;
    while at + 1 < N {
        sum += u16::from_ne_bytes([bytes[at], bytes[at + 1]]) as u32;
        at += 2;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incremental_update_equals_recomputation() {
        let mut header = [0x45, 0, 0, 60, 0x1c, 0x46, 0x40, 0, 64, 6, 0, 0, 10, 244, 1, 11, 10, 96, 0, 10];
        let before = finish(sum_bytes(&header));
        let old = u32::from_ne_bytes([10, 96, 0, 10]);
        let new = u32::from_ne_bytes([10, 244, 1, 12]);
        header[16..].copy_from_slice(&new.to_ne_bytes());
        assert_eq!(apply(before, difference(new, old)), finish(sum_bytes(&header)));
    }

    #[test]
    fn no_change_keeps_the_field() {
        for field in [0x0001, 0x1234, 0xfffe] {
            assert_eq!(apply(field, difference(0xdead_beef, 0xdead_beef)), field);
        }
    }
}
