//! BPF_PROG_TEST_RUN with the flags aya does not offer. Must not know what programs do.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

const BPF_PROG_TEST_RUN: libc::c_long = 10;
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
    let mut out = vec![0_u8; frame.len() + 1024];
    let mut attr = TestRunAttr {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        data_size_out: out.len() as u32,
        data_out: out.as_mut_ptr() as u64,
        repeat: 1,
        flags,
        ..TestRunAttr::default()
    };
    // SAFETY: `attr` is laid out as the kernel's union for this command and passed with its size; both buffers
    // outlive the call and are as long as `attr` says.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attr, size_of::<TestRunAttr>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    out.truncate(attr.data_size_out as usize);
    Ok((attr.retval, out))
}
