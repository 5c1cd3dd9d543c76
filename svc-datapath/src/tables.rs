//! What the packet logic needs from its surroundings: the packet, the maps, a clock and randomness.
//! `svc-ebpf` implements these on kernel facilities, `svc-testbed` in plain memory.

use svc_common::{
    AddrV4, AddrV6, AffinityKey, AffinityValue, BackendEntry, BackendRef, DropReason, Event, Flow, FlowEntry,
    FlowEntryV4, FlowEntryV6, FlowKey, FragmentKey, FragmentPorts, FrontendKey, HeldKey, Hop, ServiceEntry, SocketKey,
    SocketValue,
};

use crate::address::Address;

/// The kernel refused to change the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RewriteError;

/// Why a map took no new entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InsertError {
    Exists,
    Full,
}

/// Which part of a transport checksum a change concerns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChecksumPart {
    /// Addresses and length: also part of the seed that hardware offload (CHECKSUM_PARTIAL) starts from.
    PseudoHeader,
    /// Bytes of the segment: hardware offload computes these itself.
    Segment,
}

/// The packet at hand. Offsets count bytes from the start of the Ethernet header.
pub trait Packet {
    /// Length of the whole packet; for a GSO packet that of the aggregate.
    fn length(&self) -> u32;

    /// `None` beyond the end of the packet.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Overwrites bytes. Checksums are the caller's business.
    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), RewriteError>;

    /// Adds `difference` (a ones' complement sum in the order of [`crate::checksum`]) to the transport checksum at
    /// `offset`. With `zero_is_none` (UDP, RFC 768 and RFC 8200 §8.1) a zero checksum stays zero, and a result of zero
    /// becomes 0xffff.
    fn update_checksum(
        &mut self,
        offset: usize,
        difference: u32,
        part: ChecksumPart,
        zero_is_none: bool,
    ) -> Result<(), RewriteError>;

    /// As two calls of [`Packet::update_checksum`], for what `addresses` and `ports` add.
    #[inline(always)]
    fn update_checksums(
        &mut self,
        offset: usize,
        addresses: u32,
        ports: u32,
        zero_is_none: bool,
    ) -> Result<(), RewriteError> {
        self.update_checksum(offset, addresses, ChecksumPart::PseudoHeader, zero_is_none)?;
        self.update_checksum(offset, ports, ChecksumPart::Segment, zero_is_none)
    }

    /// Says that the sum of the packet's bytes changed by `difference`, where no checksum in it takes that up: a network
    /// card may have summed the whole packet (CHECKSUM_COMPLETE).
    fn change_sum(&mut self, difference: u32);

    /// Cuts or extends the packet at its end; new bytes are zero.
    fn resize(&mut self, length: u32) -> Result<(), RewriteError>;

    /// Bytes of payload in each segment of an aggregate (GSO); zero for one packet.
    fn segment_size(&self) -> u32;

    /// Where the routing table sends a packet between these addresses that comes in here; never [`hop_kind::UNKNOWN`].
    ///
    /// [`hop_kind::UNKNOWN`]: svc_common::hop_kind::UNKNOWN
    fn route<A: Address>(&self, source: A, destination: A) -> Hop;
}

/// Maps that differ by address family.
pub trait FamilyTables<A> {
    /// An entry of the flow table; good for the packet at hand.
    type Place: Copy;

    /// Bits of [`svc_common::address_class`].
    fn address_class(&self, address: A) -> u8;
    /// Service index of a frontend.
    fn frontend(&self, key: &FrontendKey<A>) -> Option<u32>;
    fn find_flow(&self, key: &FlowKey<A>) -> Option<Self::Place>;
    fn flow_at(&self, place: Self::Place) -> Flow<A>;
    fn hop_at(&self, place: Self::Place) -> Hop;
    fn set_hop_at(&self, place: Self::Place, hop: &Hop);
    #[inline(always)]
    fn flow(&self, key: &FlowKey<A>) -> Option<Flow<A>> {
        self.find_flow(key).map(|place| self.flow_at(place))
    }
    /// With `replace` an existing entry is overwritten, without it the call fails with [`InsertError::Exists`].
    fn insert_flow(&self, key: &FlowKey<A>, entry: &FlowEntry<A>, replace: bool) -> Result<(), InsertError>;
    /// Adds bits of [`svc_common::flow_state`] to an entry and sets its time and tick.
    fn mark_flow_at(&self, place: Self::Place, state: u8, now: u32);
    /// The same, if there is such an entry.
    #[inline(always)]
    fn mark_flow(&self, key: &FlowKey<A>, state: u8, now: u32) {
        if let Some(place) = self.find_flow(key) {
            self.mark_flow_at(place, state, now);
        }
    }
    /// The node's address of this family; the unspecified address if it has none.
    fn node_address(&self) -> A;
    /// Whether the address lies in the cluster's pod ranges (CLUSTER_RANGES): such clients keep their address.
    fn in_cluster(&self, address: A) -> bool;
}

/// Maps and facts common to both families.
pub trait Tables: FamilyTables<AddrV4> + FamilyTables<AddrV6> {
    /// Bits of [`svc_common::feature`].
    fn features(&self) -> u32;
    /// Packets may leave past the node's stack (`--forwarding=direct`).
    fn forwards_directly(&self) -> bool;
    fn service(&self, index: u32) -> Option<ServiceEntry>;
    fn slot(&self, index: u32) -> Option<BackendRef>;
    fn backend(&self, index: u32) -> Option<BackendEntry>;
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue>;
    fn set_affinity(&self, key: &AffinityKey, value: &AffinityValue);
    fn socket(&self, key: &SocketKey) -> Option<SocketValue>;
    fn set_socket(&self, key: &SocketKey, value: &SocketValue);
    /// Ports of the datagram that a fragment belongs to.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts>;
    fn set_fragment(&self, key: &FragmentKey, ports: &FragmentPorts);
    fn count(&self, service: u32, what: Counted);
    fn count_drop(&self, reason: DropReason);
    /// Whether anybody listens to events at this time (seconds of CLOCK_MONOTONIC).
    fn events_wanted(&self, now: u32) -> bool;
    /// `Event::time`, and for socket events the process, are filled in here.
    fn emit(&self, event: &Event);
    /// Seconds of CLOCK_MONOTONIC.
    fn now(&self) -> u32;
    /// Moves on about once a second, modulo 256, and costs next to nothing: asking for the time costs more than finding a flow's backend.
    fn tick(&self) -> u8;
    fn random(&self) -> u32;
}

/// Fragments that wait for the first one of their datagram. All of it is best effort: what gets lost is one datagram.
pub trait Fragments<P: Packet>: Tables {
    /// Forgets the ports of a datagram.
    fn forget_fragment(&self, key: &FragmentKey);
    /// Keeps a copy of the packet; false if the key is in use, or the packet too long.
    fn hold(&self, packet: &P, key: &HeldKey, now: u32) -> bool;
    /// When the packet of this key was put there.
    fn held_since(&self, key: &HeldKey) -> Option<u32>;
    /// Puts the packet of this key in the place of `packet`, behind its Ethernet header, and forgets it. False if it was
    /// gone, or did not fit: then `packet` must not be used.
    fn take_held(&self, packet: &mut P, key: &HeldKey) -> bool;
    /// True if it was there: of two that forget it, one hears so.
    fn forget_held(&self, key: &HeldKey) -> bool;
    /// A copy of the packet comes to its hook (of [`svc_common::flow_stage`]) once more. Where the kernel loses it, the
    /// interface counts that.
    fn send_again(&self, packet: &P, stage: u8);
}

/// One increment of a service's counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counted {
    /// A new flow through TC.
    ConnectionTc,
    /// A connect() or first datagram translated by a socket hook.
    ConnectionSocket,
    /// A packet client → backend of so many bytes (network header and up).
    ToBackend(u32),
    /// A packet backend → client.
    ToClient(u32),
    /// A new connection refused or dropped.
    Rejected,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// On its way, translated or not.
    Pass,
    /// Gone; it has been counted.
    Drop(DropReason),
    /// Back to where it came from (a refusal, or a pod that reaches itself).
    TurnBack,
    /// Out of the interface that its new destination is behind.
    Reroute,
    /// A flow was entered, the packet is as it came: once more from the beginning.
    Again,
}

/// Room for what is put together before it is entered in a table: the kernel's stack of 512 bytes has none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Scratch {
    pub v4: FlowEntryV4,
    pub v6: FlowEntryV6,
}

/// Which side of the node an interface is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The node's end of a pod interface.
    Pod,
    /// An interface to other machines.
    Uplink,
}
