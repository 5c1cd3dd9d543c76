//! Socket hooks: reads the address out of the kernel's context, asks `svc_datapath::socket`, writes the answer back.
//! IPv4-mapped IPv6 addresses are IPv4 in another notation (RFC 4291 §2.5.5.2) and are treated as such.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::bindings::{BPF_F_CURRENT_NETNS, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval, bpf_sk_lookup_tcp, bpf_sk_release,
};
use aya_ebpf::programs::SockAddrContext;
use svc_common::{AddrV4, AddrV6, Port, Protocol};
use svc_datapath::socket::{self, Resolution, Socket};

use crate::tables::KernelTables;
use crate::variant::{HAVE_SET_RETVAL, HOST_NETNS_COOKIE};

const PROCEED: i32 = 1;
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;
/// Sizes of `bpf_sock_tuple` that tell the helper the family.
const IPV4_TUPLE: u32 = 12;
const IPV6_TUPLE: u32 = 36;
/// `::ffff:0:0/96`
const MAPPED: [u32; 3] = [0, 0, 0xffff_u32.to_be()];

pub fn bind(context: &SockAddrContext) -> i32 {
    if port(context) != Port(0) {
        socket::bind(&KernelTables, &KernelSocket(context));
    }
    PROCEED
}

pub fn connect4(context: &SockAddrContext) -> i32 {
    let socket = KernelSocket(context);
    let listens = |address, port| listens4(context, address, port);
    let resolution = socket::connect(&KernelTables, &socket, address4(context), port(context), listens);
    apply(resolution, |address, port| store4(context, address, port))
}

pub fn connect6(context: &SockAddrContext) -> i32 {
    let socket = KernelSocket(context);
    let address = address6(context);
    match mapped(address) {
        Some(address) => {
            let listens = |address, port| listens4(context, address, port);
            let resolution = socket::connect(&KernelTables, &socket, address, port(context), listens);
            apply(resolution, |address, port| store6(context, unmapped(address), port))
        }
        None => {
            let listens = |address, port| listens6(context, address, port);
            let resolution = socket::connect(&KernelTables, &socket, address, port(context), listens);
            apply(resolution, |address, port| store6(context, address, port))
        }
    }
}

pub fn peer4(context: &SockAddrContext) -> i32 {
    let socket = KernelSocket(context);
    if let Some((address, port)) = socket::peer(&KernelTables, &socket, address4(context), port(context)) {
        store4(context, address, port);
    }
    PROCEED
}

pub fn peer6(context: &SockAddrContext) -> i32 {
    let socket = KernelSocket(context);
    let address = address6(context);
    match mapped(address) {
        Some(address) => {
            if let Some((address, port)) = socket::peer(&KernelTables, &socket, address, port(context)) {
                store6(context, unmapped(address), port);
            }
        }
        None => {
            if let Some((address, port)) = socket::peer(&KernelTables, &socket, address, port(context)) {
                store6(context, address, port);
            }
        }
    }
    PROCEED
}

struct KernelSocket<'a>(&'a SockAddrContext);

impl Socket for KernelSocket<'_> {
    #[inline(always)]
    fn protocol(&self) -> Protocol {
        // SAFETY: the kernel passed a valid context.
        Protocol(unsafe { (*self.0.sock_addr).protocol } as u8)
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the kernel passed a valid context.
        unsafe { bpf_get_socket_cookie(self.0.as_ptr()) }
    }

    #[inline(always)]
    fn is_host(&self) -> bool {
        let host_cookie = HOST_NETNS_COOKIE.load();
        // SAFETY: the kernel passed a valid context.
        host_cookie != 0 && unsafe { bpf_get_netns_cookie(self.0.as_ptr()) } == host_cookie
    }

    #[inline(always)]
    fn local_port(&self) -> Port {
        // SAFETY: the kernel passed a valid context; `sk` is never null in these hooks, but the verifier wants it tested.
        unsafe {
            let sk = (*self.0.sock_addr).__bindgen_anon_1.sk;
            if sk.is_null() { Port(0) } else { Port::from_host((*sk).src_port as u16) }
        }
    }
}

#[inline(always)]
fn listens4(context: &SockAddrContext, address: AddrV4, port: Port) -> bool {
    // SAFETY: plain numbers, for which zero is valid; the port is in network byte order.
    let tuple = unsafe {
        let mut tuple: bpf_sock_tuple = core::mem::zeroed();
        tuple.__bindgen_anon_1.ipv4.daddr = address.0;
        tuple.__bindgen_anon_1.ipv4.dport = port.0;
        tuple
    };
    listens(context, &tuple, IPV4_TUPLE)
}

#[inline(always)]
fn listens6(context: &SockAddrContext, address: AddrV6, port: Port) -> bool {
    // SAFETY: plain numbers, for which zero is valid; the port is in network byte order.
    let tuple = unsafe {
        let mut tuple: bpf_sock_tuple = core::mem::zeroed();
        tuple.__bindgen_anon_1.ipv6.daddr = address.0;
        tuple.__bindgen_anon_1.ipv6.dport = port.0;
        tuple
    };
    listens(context, &tuple, IPV6_TUPLE)
}

/// Asks for the socket that a connection from nowhere would come to: only a listening one can be that.
#[inline(always)]
fn listens(context: &SockAddrContext, tuple: &bpf_sock_tuple, length: u32) -> bool {
    // SAFETY: the context is the one the kernel passed, the tuple lies on the stack and is at least as long as said; what
    // is found is given back.
    unsafe {
        let tuple = (&raw const *tuple).cast_mut();
        let found = bpf_sk_lookup_tcp(context.as_ptr(), tuple, length, BPF_F_CURRENT_NETNS as u64, 0);
        if found.is_null() {
            return false;
        }
        bpf_sk_release(found.cast());
        true
    }
}

#[inline(always)]
fn address4(context: &SockAddrContext) -> AddrV4 {
    // SAFETY: the kernel passed a valid context.
    AddrV4(unsafe { (*context.sock_addr).user_ip4 })
}

#[inline(always)]
fn address6(context: &SockAddrContext) -> AddrV6 {
    // SAFETY: the kernel passed a valid context. Read word by word: the kernel translates each access.
    unsafe {
        let words = &raw const (*context.sock_addr).user_ip6;
        AddrV6([
            read_word(words.cast::<u32>()),
            read_word(words.cast::<u32>().add(1)),
            read_word(words.cast::<u32>().add(2)),
            read_word(words.cast::<u32>().add(3)),
        ])
    }
}

/// # Safety
/// The address must be a field of the context. Volatile, so that neighbouring reads are not merged into wider ones,
/// which the verifier refuses for context fields.
#[inline(always)]
unsafe fn read_word(word: *const u32) -> u32 {
    // SAFETY: promised by the caller.
    unsafe { core::ptr::read_volatile(word) }
}

/// `user_port` holds sixteen bits in network byte order in a field of thirty-two.
#[inline(always)]
fn port(context: &SockAddrContext) -> Port {
    // SAFETY: the kernel passed a valid context.
    Port(unsafe { (*context.sock_addr).user_port } as u16)
}

#[inline(always)]
fn mapped(address: AddrV6) -> Option<AddrV4> {
    let [a, b, c, d] = address.0;
    ([a, b, c] == MAPPED).then_some(AddrV4(d))
}

#[inline(always)]
fn unmapped(address: AddrV4) -> AddrV6 {
    let [a, b, c] = MAPPED;
    AddrV6([a, b, c, address.0])
}

/// Does what was decided; `store` writes an address into the context.
#[inline(always)]
fn apply<A>(resolution: Resolution<A>, store: impl FnOnce(A, Port)) -> i32 {
    match resolution {
        Resolution::Unchanged => PROCEED,
        Resolution::Replace(address, port) => {
            store(address, port);
            PROCEED
        }
        Resolution::Refuse => refuse(),
    }
}

/// ECONNREFUSED where the kernel lets a program say so; EPERM below 5.18.
#[inline(always)]
fn refuse() -> i32 {
    if HAVE_SET_RETVAL.load() != 0 {
        // SAFETY: a helper that takes a plain number.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    REFUSE
}

#[inline(always)]
fn store4(context: &SockAddrContext, address: AddrV4, port: Port) {
    // SAFETY: the kernel passed a valid context.
    unsafe {
        (*context.sock_addr).user_ip4 = address.0;
        (*context.sock_addr).user_port = port.0 as u32;
    }
}

#[inline(always)]
fn store6(context: &SockAddrContext, address: AddrV6, port: Port) {
    let [a, b, c, d] = address.0;
    // SAFETY: the kernel passed a valid context. Written word by word, for the same reason as in `read_word`.
    unsafe {
        let sock_addr: *mut bpf_sock_addr = context.sock_addr;
        let words = (&raw mut (*sock_addr).user_ip6).cast::<u32>();
        core::ptr::write_volatile(words, a);
        core::ptr::write_volatile(words.add(1), b);
        core::ptr::write_volatile(words.add(2), c);
        core::ptr::write_volatile(words.add(3), d);
        (*sock_addr).user_port = port.0 as u32;
    }
}
