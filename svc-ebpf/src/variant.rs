//! Facts fixed when the programs are loaded (`EbpfLoader::override_global`). They lie in read-only data, which the
//! verifier knows and folds: code for an absent feature is removed before the kernel looks at it.

use aya_ebpf::Global;

/// Each packet's way through the programs is logged (`--trace-packets`).
#[unsafe(no_mangle)]
pub static TRACE: Global<u8> = Global::new(0);

/// bpf_ktime_get_coarse_ns exists (5.11).
#[unsafe(no_mangle)]
pub static HAVE_COARSE_CLOCK: Global<u8> = Global::new(1);

/// A tick of flows is two to this power jiffies: as many as last about a second.
#[unsafe(no_mangle)]
pub static TICK_SHIFT: Global<u8> = Global::new(8);

/// bpf_set_retval exists in sock_addr programs (5.18).
#[unsafe(no_mangle)]
pub static HAVE_SET_RETVAL: Global<u8> = Global::new(1);

/// bpf_l4_csum_replace takes BPF_F_IPV6 (6.16, and stable kernels with the fix).
#[unsafe(no_mangle)]
pub static HAVE_IPV6_CSUM_FLAG: Global<u8> = Global::new(1);

/// Packets of known flows leave past the node's stack (`--forwarding=direct`).
#[unsafe(no_mangle)]
pub static FORWARD_DIRECT: Global<u8> = Global::new(0);

/// Cookie of the node's network namespace (SO_NETNS_COOKIE); zero: not known, every socket counts as a pod's.
#[unsafe(no_mangle)]
pub static HOST_NETNS_COOKIE: Global<u64> = Global::new(0);
