//! Direct access to the bytes of a packet, the same for TC and XDP: bounds are read from the context each time, since helpers that
//! change the packet invalidate every pointer into it. Neighbours: `packet` and `xdp`.

use svc_datapath::RewriteError;

/// Bound for the verifier: no header of interest begins later.
const MAX_OFFSET: usize = 1023;

/// Where the directly accessible part of a packet begins and ends. Implementations read the context's fields volatile: otherwise the
/// compiler hands the value to a function in place of the context, as the 32-bit number the field pretends to be, and the verifier
/// no longer sees a pointer.
pub trait Bounds {
    fn start(&self) -> usize;
    fn end(&self) -> usize;
}

#[inline(always)]
pub fn load<const N: usize>(packet: &impl Bounds, offset: usize) -> Option<[u8; N]> {
    let from = at::<N>(packet, offset)?;
    let mut bytes = [0; N];
    // SAFETY: `at` checked the bounds.
    unsafe { copy::<N>(from, bytes.as_mut_ptr()) };
    Some(bytes)
}

#[inline(always)]
pub fn store<const N: usize>(packet: &impl Bounds, offset: usize, bytes: &[u8; N]) -> Result<(), RewriteError> {
    let to = at::<N>(packet, offset).ok_or(RewriteError)?;
    // SAFETY: `at` checked the bounds; the kernel lets both kinds of programs write there.
    unsafe { copy::<N>(bytes.as_ptr(), to) };
    Ok(())
}

/// Address of `N` bytes at `offset`, if the packet has them.
#[inline(always)]
fn at<const N: usize>(packet: &impl Bounds, offset: usize) -> Option<*mut u8> {
    // The compiler turns a test for one byte into `start < end`, which the verifier does not take as proof.
    const { assert!(N > 1) };
    if offset > MAX_OFFSET {
        return None;
    }
    let start = packet.start() + offset;
    (start + N <= packet.end()).then_some(start as *mut u8)
}

/// Copies in words: a byte-wise copy, which Rust would make for byte arrays, costs four times the instructions.
///
/// # Safety
/// Both addresses must be valid for `N` bytes. They need not be aligned: the kernel only admits unaligned access
/// where the processor has it, and the verifier checks that.
#[inline(always)]
unsafe fn copy<const N: usize>(from: *const u8, to: *mut u8) {
    let mut at = 0;
    // SAFETY: `at` stays below N.
    unsafe {
        while at + 4 <= N {
            *to.add(at).cast::<u32>() = *from.add(at).cast::<u32>();
            at += 4;
        }
        if at + 2 <= N {
            *to.add(at).cast::<u16>() = *from.add(at).cast::<u16>();
            at += 2;
        }
        if at < N {
            *to.add(at) = *from.add(at);
        }
    }
}
