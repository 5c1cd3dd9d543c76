//! BPF_PROG_TEST_RUN with the flags and results aya does not offer, and programs of two instructions. Must not know what
//! programs do.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const XDP_PASS: u32 = 2;
const TC_ACT_UNSPEC: u32 = u32::MAX;
/// The kernel computes CHECKSUM_COMPLETE before the program and verifies it afterwards (EBADMSG): 6.16.
pub const SKB_CHECKSUM_COMPLETE: u32 = 1 << 2;

/// `union bpf_attr`, the part for BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
struct TestRunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// Runs a classifier once; returns what it returned and the frame it left.
pub fn run(program: BorrowedFd<'_>, frame: &[u8], flags: u32) -> io::Result<(u32, Vec<u8>)> {
    // Room for what a program may append.
    run_once(program, frame, frame.len() + 1024, TestRunAttr { flags, ..TestRunAttr::default() })
}

/// `room` is for the frame that is left; what `attr` says of a context must outlive the call.
fn run_once(program: BorrowedFd<'_>, frame: &[u8], room: usize, attr: TestRunAttr) -> io::Result<(u32, Vec<u8>)> {
    let mut out = vec![0_u8; room];
    let mut attr = TestRunAttr {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        data_size_out: out.len() as u32,
        data_out: out.as_mut_ptr() as u64,
        repeat: 1,
        ..attr
    };
    // SAFETY: both buffers outlive the call and are as long as `attr` says, and so is the caller's context.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attr) }?;
    out.truncate(attr.data_size_out as usize);
    Ok((attr.retval, out))
}

/// `struct xdp_md`.
#[repr(C)]
#[derive(Default)]
struct XdpContext {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// Runs an XDP program once on a frame from an interface of the caller's network namespace (5.15).
pub fn run_xdp(program: BorrowedFd<'_>, frame: &[u8], interface: u32) -> io::Result<(u32, Vec<u8>)> {
    let context = XdpContext { data_end: frame.len() as u32, ingress_ifindex: interface, ..XdpContext::default() };
    let (ctx_size_in, ctx_in) = (size_of::<XdpContext>() as u32, &raw const context as u64);
    run_once(program, frame, frame.len(), TestRunAttr { ctx_size_in, ctx_in, ..TestRunAttr::default() })
}

/// Runs a classifier `repeat` times on one packet, each time on what the run before left of it. Returns what the last run
/// returned and the nanoseconds one run took.
pub fn repeat(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> io::Result<(u32, u32)> {
    let mut attr = TestRunAttr {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat,
        ..TestRunAttr::default()
    };
    // SAFETY: the frame outlives the call and is as long as `attr` says.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attr) }?;
    Ok((attr.retval, attr.duration))
}

/// The part of `union bpf_attr` for BPF_PROG_LOAD that every kernel knows.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// A classifier that does nothing: what a test run costs by itself.
pub fn load_empty() -> io::Result<OwnedFd> {
    load_constant(BPF_PROG_TYPE_SCHED_CLS, TC_ACT_UNSPEC)
}

/// The part of `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
struct LinkAttr {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// An XDP program that passes everything, in the driver of an interface of the caller's network namespace, as long as the
/// link lives.
pub fn pass_all(interface: u32) -> io::Result<OwnedFd> {
    let program = load_constant(BPF_PROG_TYPE_XDP, XDP_PASS)?;
    let mut attr = LinkAttr {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_ifindex: interface,
        attach_type: BPF_XDP,
        flags: XDP_FLAGS_DRV_MODE,
    };
    // SAFETY: numbers only.
    let descriptor = unsafe { bpf(BPF_LINK_CREATE, &mut attr) }?;
    // SAFETY: the kernel made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// A program that returns this and does nothing else.
fn load_constant(kind: u32, result: u32) -> io::Result<OwnedFd> {
    // r0 = result; exit
    let instructions: [u64; 2] = [u64::from(result) << 32 | 0xb7, 0x95];
    let mut attr = LoadAttr {
        prog_type: kind,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..LoadAttr::default()
    };
    // SAFETY: instructions and license outlive the call.
    let descriptor = unsafe { bpf(BPF_PROG_LOAD, &mut attr) }?;
    // SAFETY: the kernel made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// # Safety
/// `attr` is laid out as the kernel's union for this command, and what it points to is valid during the call.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: the caller's promise; the size is the attribute's own.
    match unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) } {
        result if result < 0 => Err(io::Error::last_os_error()),
        result => Ok(result as i32),
    }
}
