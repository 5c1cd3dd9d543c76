//! SCTP (RFC 9260). Its checksum covers no addresses, so that these can be replaced; it does cover the ports, and to make it
//! anew a program would have to read the whole packet: ports stay, and so do source ports that are already taken.
//! Addresses inside of chunks are left alone, as by the kernel's own translation: associations have one path.

use crate::parse::tcp_flag;

/// The common header, and the beginning of the first chunk.
pub const HEADER: usize = 16;
/// So much of a packet must be quoted before its sender believes an ICMP error: of an INIT up to the tag it proposes.
pub const QUOTE: usize = 20;

mod chunk {
    pub const INIT: u8 = 1;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// What the packet does to its association, in the words of TCP. INIT and SHUTDOWN COMPLETE are never bundled with other
/// chunks, ABORT seldom: a flow that misses it is forgotten later.
#[inline(always)]
pub fn flags(first_chunk: u8) -> u8 {
    match first_chunk {
        chunk::INIT => tcp_flag::SYN,
        chunk::ABORT | chunk::SHUTDOWN_COMPLETE => tcp_flag::RST,
        _ => tcp_flag::ACK,
    }
}
