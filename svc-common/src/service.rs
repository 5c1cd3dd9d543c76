//! Frontends, services, slots, backends and affinity.
//! A reader goes FRONTENDS → SERVICES → (publication word) → SLOTS → BACKENDS and checks what it finds at each step,
//! so that entries may be reused while it reads.

use crate::{AddrV4, AddrV6, Family, Port, Protocol, abi};

/// Key of FRONTENDS_V4 / FRONTENDS_V6; the value is the service index (u32).
/// Each service address has one more entry with port and protocol zero, whose value is one of [`address_marker`]: a
/// packet to a port that the address does not have is refused, and a ping is answered for the services.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FrontendKey<A> {
    pub address: A,
    pub port: Port,
    pub protocol: Protocol,
    pub zero: u8,
}
impl<A> FrontendKey<A> {
    /// The entry that stands for the address itself.
    #[inline(always)]
    pub const fn marker(address: A) -> Self {
        Self { address, port: Port(0), protocol: Protocol(0), zero: 0 }
    }
}

pub type FrontendKeyV4 = FrontendKey<AddrV4>;
pub type FrontendKeyV6 = FrontendKey<AddrV6>;
abi!(FrontendKeyV4, 8);
abi!(FrontendKeyV6, 20);

/// What all services of one address together do with a ping: the value of the address's marker in FRONTENDS.
pub mod address_marker {
    /// None has an endpoint.
    pub const REFUSES: u32 = u32::MAX;
    /// At least one translates new flows.
    pub const ANSWERS: u32 = u32::MAX - 1;
    /// Endpoints exist, but the Local policy allows none of them here.
    pub const DROPS: u32 = u32::MAX - 2;
}

/// What a service does with a new flow; part of the publication word, so that it changes together with the slots.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Verdict(pub u8);
abi!(Verdict, 1);

impl Verdict {
    /// The entry is not in use: as if the frontend did not exist.
    pub const NONE: Self = Self(0);
    /// Translate to one of the slots.
    pub const FORWARD: Self = Self(1);
    /// No endpoint anywhere: refuse at once.
    pub const REJECT: Self = Self(2);
    /// Endpoints exist, but the Local policy allows none of them here: drop silently.
    pub const DROP: Self = Self(3);
}

/// The 64-bit publication word: bits 0..32 first slot, 32..56 number of slots, 56..63 [`Verdict`], 63 whether a slot leads
/// to an endpoint of this node.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Publication(pub u64);
abi!(Publication, 8);

impl Publication {
    pub const MAX_SLOTS: u32 = (1 << 24) - 1;
    const LOCAL: u64 = 1 << 63;

    #[inline(always)]
    pub const fn new(verdict: Verdict, first_slot: u32, slot_count: u32) -> Self {
        Self(first_slot as u64 | ((slot_count & Self::MAX_SLOTS) as u64) << 32 | (verdict.0 as u64) << 56)
    }

    #[inline(always)]
    pub const fn first_slot(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    pub const fn slot_count(self) -> u32 {
        (self.0 >> 32) as u32 & Self::MAX_SLOTS
    }

    #[inline(always)]
    pub const fn verdict(self) -> Verdict {
        Verdict((self.0 >> 56) as u8 & !(Self::LOCAL >> 56) as u8)
    }

    /// Some of the slots lead to endpoints of this node.
    #[inline(always)]
    pub const fn has_local(self) -> bool {
        self.0 & Self::LOCAL != 0
    }

    #[inline(always)]
    pub const fn with_local(self, local: bool) -> Self {
        Self(if local { self.0 | Self::LOCAL } else { self.0 & !Self::LOCAL })
    }
}

/// Entry of SERVICES, by service index. One frontend has one entry, with slots and backends of its own.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ServiceEntry {
    /// Written with one store; everything else only changes while the verdict is [`Verdict::NONE`], flags excepted.
    pub publication: Publication,
    /// The frontend again: compared after the lookup, so that a recycled hash element never misleads a packet.
    pub address: AddrV6,
    pub port: Port,
    pub protocol: Protocol,
    pub family: Family,
    /// Bits of [`service_flag`].
    pub flags: u32,
    /// ClientIP affinity: seconds since the client's last new connection. 0: no affinity.
    pub affinity_timeout: u32,
    /// Key of the service in AFFINITY: the same for all frontends of one Service port, never used twice.
    pub affinity_id: u32,
    pub reserved: [u32; 6],
}
abi!(ServiceEntry, 64);

/// Bits of [`ServiceEntry::flags`].
pub mod service_flag {
    /// The slot is chosen by a hash of the client instead of a random number: the slots are a Maglev table.
    pub const HASH: u32 = 1 << 0;
    /// Established TCP connections to an endpoint that is gone are reset.
    pub const RESET_WHEN_GONE: u32 = 1 << 1;
}

/// Names one use of a backend index: index in the low half, generation in the high half. Zero names nothing.
/// It is the element of SLOTS.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct BackendRef(pub u64);
abi!(BackendRef, 8);

impl BackendRef {
    pub const NONE: Self = Self(0);

    #[inline(always)]
    pub const fn new(index: u32, generation: u32) -> Self {
        Self(index as u64 | (generation as u64) << 32)
    }

    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Entry of BACKENDS, by backend index: one endpoint of one service.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BackendEntry {
    pub address: AddrV6,
    pub port: Port,
    /// Bits of [`backend_flag`].
    pub flags: u16,
    /// Odd while the backend lives, even while the index is free. Written last when it begins and first when it ends.
    pub generation: u32,
    /// Index of the service it belongs to.
    pub service: u32,
    pub zero: u32,
}
abi!(BackendEntry, 32);

/// Bits of [`BackendEntry::flags`].
pub mod backend_flag {
    /// The endpoint's nodeName is this node.
    pub const LOCAL: u16 = 1 << 0;
    /// The backend has a slot: new flows may choose it. Clear while it only drains; may change while it lives.
    pub const ELIGIBLE: u16 = 1 << 1;
}

/// Key of AFFINITY.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct AffinityKey {
    pub client: AddrV6,
    pub affinity_id: u32,
    pub zero: u32,
}
abi!(AffinityKey, 24);

/// Value of AFFINITY.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AffinityValue {
    pub backend: BackendRef,
    /// Seconds of CLOCK_MONOTONIC at the client's last new connection.
    pub last_seen: u32,
    pub zero: u32,
}
abi!(AffinityValue, 16);

/// Value of SERVICE_NAMES, by service index: `namespace/name:port` (no colon for an unnamed port), NUL padded.
/// Only user space uses it: it lets the tools name services while no agent runs.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServiceName {
    pub bytes: [u8; Self::MAX_LEN],
}
abi!(ServiceName, 192);

impl ServiceName {
    /// Namespace, name and port name have at most 63 characters each.
    pub const MAX_LEN: usize = 192;
}
