//! A packet in memory with Linux's rules for transport checksums, and a switch to make any change of it fail.
//! Must not know protocols. Neighbours: [`super::frame`] makes packets, `svc_datapath::Packet` is what it implements.

use std::net::{IpAddr, Ipv6Addr};

use svc_common::{AddrV4, Hop, hop_kind};
use svc_datapath::{Address, ChecksumPart, ETHERNET_LENGTH, Packet, RewriteError};

use super::express::Route;

/// Payload of each segment of an aggregate, as with an MTU of 1500.
const SEGMENT: u32 = 1448;

/// State of the transport checksum (`skb->ip_summed`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offload {
    /// Complete in the packet.
    Complete,
    /// CHECKSUM_PARTIAL: hardware sums from `start` to the end and stores the result `field` bytes behind `start`.
    Partial { start: usize, field: usize },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryPacket {
    bytes: Vec<u8>,
    offload: Offload,
    gso: bool,
    hops: Vec<(IpAddr, Hop)>,
    changes: u32,
    fail_at: Option<u32>,
    route_out: Route,
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn sum_words(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    bytes.chunks(2).map(word).sum()
}

impl MemoryPacket {
    pub fn new(bytes: Vec<u8>, offload: Offload, gso: bool) -> Self {
        Self { bytes, offload, gso, hops: Vec::new(), changes: 0, fail_at: None, route_out: Route::None }
    }

    /// What the routing table of the machine it is on says.
    pub fn set_hops(&mut self, hops: &[(IpAddr, Hop)]) {
        self.hops = hops.to_vec();
    }

    /// Where XDP could send it, by the same routing table.
    pub fn set_route_out(&mut self, route: Route) {
        self.route_out = route;
    }

    pub fn route_out(&self) -> Route {
        self.route_out
    }

    /// The n-th change from now on fails, and every later one.
    pub fn fail_from(&mut self, change: u32) {
        self.fail_at = Some(self.changes + change);
    }

    /// Changes made or tried so far.
    pub fn changes(&self) -> u32 {
        self.changes
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Place of the checksum that hardware completes.
    pub fn offloaded_field(&self) -> Option<usize> {
        match self.offload {
            Offload::Complete => None,
            Offload::Partial { start, field } => Some(start + field),
        }
    }

    pub fn is_gso(&self) -> bool {
        self.gso
    }

    /// What a receiver gets: hardware has completed the checksum.
    pub fn finish(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        if let Offload::Partial { start, field } = self.offload
            && let Some(segment) = bytes.get(start..)
        {
            let sum = !fold(sum_words(segment));
            // As skb_checksum_help: for UDP a checksum of zero would mean "none".
            let sum = if sum == 0 { 0xffff } else { sum };
            if let Some(place) = bytes.get_mut(start + field..start + field + 2) {
                place.copy_from_slice(&sum.to_ne_bytes());
            }
        }
        bytes
    }

    /// Another packet behind the same Ethernet header.
    pub fn replace_network(&mut self, packet: &[u8]) {
        self.bytes.truncate(ETHERNET_LENGTH);
        self.bytes.extend_from_slice(packet);
        self.offload = Offload::Complete;
    }

    fn change(&mut self) -> Result<(), RewriteError> {
        self.changes += 1;
        match self.fail_at {
            Some(limit) if self.changes >= limit => Err(RewriteError),
            _ => Ok(()),
        }
    }
}

impl Packet for MemoryPacket {
    fn length(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }

    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), RewriteError> {
        self.change()?;
        let end = offset.checked_add(N).ok_or(RewriteError)?;
        self.bytes.get_mut(offset..end).ok_or(RewriteError)?.copy_from_slice(bytes);
        Ok(())
    }

    /// As `bpf_l4_csum_replace` with a ready difference does it.
    fn update_checksum(
        &mut self,
        offset: usize,
        difference: u32,
        part: ChecksumPart,
        zero_is_none: bool,
    ) -> Result<(), RewriteError> {
        self.change()?;
        let place: [u8; 2] = self.load(offset).ok_or(RewriteError)?;
        let old = u16::from_ne_bytes(place);
        if zero_is_none && old == 0 {
            return Ok(());
        }
        let difference = u64::from(difference);
        let new = match (self.offload, part) {
            (Offload::Complete, _) => !fold(u64::from(!old) + difference),
            (Offload::Partial { .. }, ChecksumPart::PseudoHeader) => fold(u64::from(old) + difference),
            (Offload::Partial { .. }, ChecksumPart::Segment) => old,
        };
        let new = if zero_is_none && new == 0 { 0xffff } else { new };
        self.bytes[offset..offset + 2].copy_from_slice(&new.to_ne_bytes());
        Ok(())
    }

    /// As `bpf_skb_change_tail`: hardware's checksum field must stay inside, and an aggregate becomes one packet.
    /// Nobody has summed the packet; the kernel runner checks this with the kernel's own sum.
    fn change_sum(&mut self, _difference: u32) {}

    fn resize(&mut self, length: u32) -> Result<(), RewriteError> {
        self.change()?;
        let length = length as usize;
        if let Offload::Partial { start, field } = self.offload
            && length < start + field + 2
        {
            return Err(RewriteError);
        }
        self.bytes.resize(length, 0);
        self.gso = false;
        Ok(())
    }

    fn segment_size(&self) -> u32 {
        if self.gso { SEGMENT } else { 0 }
    }

    fn route<A: Address>(&self, _source: A, destination: A) -> Hop {
        let destination = Ipv6Addr::from(destination.wide().octets());
        let wide = |address: &IpAddr| match address {
            IpAddr::V4(v4) => AddrV4::from_octets(v4.octets()).wide().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let known = self.hops.iter().find(|(address, _)| Ipv6Addr::from(wide(address)) == destination);
        known.map_or(Hop { kind: hop_kind::STACK, ..Hop::default() }, |(_, hop)| *hop)
    }
}
