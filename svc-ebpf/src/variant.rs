//! Facts fixed when the programs are loaded. They lie in read-only data, which the verifier knows and folds: code for
//! an absent feature is removed before the kernel looks at it.

/// Declares one read-only global that the agent overrides by name.
macro_rules! fact {
    ($(#[doc = $doc:literal])+ $name:ident / $reader:ident: $type:ty = $default:expr) => {
        #[unsafe(no_mangle)]
        static $name: $type = $default;

        $(#[doc = $doc])+
        #[inline(always)]
        pub fn $reader() -> $type {
            // SAFETY: a valid, aligned static; volatile since its value is replaced at load time.
            unsafe { core::ptr::read_volatile(&raw const $name) }
        }
    };
}

fact!(
    /// Each packet's way through the programs is logged (`--trace-packets`).
    TRACE / trace: u8 = 0
);
fact!(
    /// bpf_ktime_get_coarse_ns exists (5.11).
    HAVE_COARSE_CLOCK / have_coarse_clock: u8 = 1
);
fact!(
    /// bpf_set_retval exists in sock_addr programs (5.18).
    HAVE_SET_RETVAL / have_set_retval: u8 = 1
);
fact!(
    /// bpf_l4_csum_replace takes BPF_F_IPV6 (6.16 and stable kernels with the fix).
    HAVE_IPV6_CSUM_FLAG / have_ipv6_csum_flag: u8 = 1
);
fact!(
    /// Cookie of the node's network namespace (SO_NETNS_COOKIE), for `--socket-lb=host`.
    HOST_NETNS_COOKIE / host_netns_cookie: u64 = 0
);
