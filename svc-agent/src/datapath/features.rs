//! What this kernel offers, found by trying: distributions backport, version numbers mislead. The answers become
//! read-only globals of the programs (`load`) and the way of attaching (`tc`). Must not change anything on the machine.

use std::io;

use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported};

use super::sys::{self, AttachType, Instruction};

/// Loopback: always index 1, in every network namespace. It is only asked about, never attached to.
const LOOPBACK: u32 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// bpf_ktime_get_coarse_ns in classifiers and socket hooks (5.11).
    pub coarse_clock: bool,
    /// bpf_set_retval in socket hooks (5.18): connect() to a service without endpoints says ECONNREFUSED.
    pub set_retval: bool,
    /// bpf_l4_csum_replace takes BPF_F_IPV6 (6.16 and backports).
    pub ipv6_csum_flag: bool,
    /// Links on interfaces (6.6); otherwise clsact filters.
    pub tcx: bool,
    /// Cookie of the network namespace this process is in (5.14).
    pub netns_cookie: Option<u64>,
}

impl Features {
    pub fn probe() -> io::Result<Self> {
        let sock_addr = ProgramType::CgroupSockAddr;
        Ok(Self {
            coarse_clock: has_helper(ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_ktime_get_coarse_ns)?
                && has_helper(sock_addr, BpfHelper::BPF_FUNC_ktime_get_coarse_ns)?,
            set_retval: has_helper(sock_addr, BpfHelper::BPF_FUNC_set_retval)?,
            ipv6_csum_flag: has_ipv6_csum_flag()?,
            tcx: has_tcx()?,
            netns_cookie: sys::netns_cookie().ok(),
        })
    }
}

fn has_helper(program: ProgramType, helper: BpfHelper) -> io::Result<bool> {
    is_helper_supported(program, helper).map_err(io::Error::other)
}

/// The flag is checked when the helper runs, so one has to run it.
fn has_ipv6_csum_flag() -> io::Result<bool> {
    const BPF_F_PSEUDO_HDR: i32 = 1 << 4;
    const BPF_F_IPV6: i32 = 1 << 7;
    const L4_CSUM_REPLACE: i32 = 11;
    const MOVE: u8 = 0xb7;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    let set = |register, immediate| Instruction { opcode: MOVE, registers: register, offset: 0, immediate };
    // The context is already in r1. Any even offset within the packet will do: the difference is zero.
    let instructions = [
        set(2, 16),
        set(3, 0),
        set(4, 0),
        set(5, BPF_F_PSEUDO_HDR | BPF_F_IPV6),
        Instruction { opcode: CALL, registers: 0, offset: 0, immediate: L4_CSUM_REPLACE },
        Instruction { opcode: EXIT, registers: 0, offset: 0, immediate: 0 },
    ];
    Ok(sys::try_classifier(&instructions, &[0; 64])? == 0)
}

fn has_tcx() -> io::Result<bool> {
    match sys::interface_links(LOOPBACK, AttachType::BPF_TCX_INGRESS) {
        // ENOENT: the kernel knows the hook, nothing hangs there.
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}
