//! Packet logic of the Service dataplane, generic over small traits, so that the same code runs in the kernel and in
//! tests. No I/O, no clock, no maps of its own. Entry points: [`express`] on uplinks, [`fast`], then [`tc`] for packets ([`hold`] before it for
//! fragments), [`socket`] for socket hooks.
//! Neighbours: `svc-common` (layouts), `svc-ebpf` (kernel side of the traits), `svc-testbed` (native side).
#![no_std]
#![forbid(unsafe_code)]

mod address;
mod begin;
pub mod checksum;
mod direct;
mod echo;
pub mod express;
pub mod fast;
pub mod filter;
mod flow;
mod fragment;
mod gone;
pub mod hold;
mod icmp;
mod parse;
mod refuse;
mod rewrite;
mod sctp;
mod select;
pub mod socket;
mod tables;
pub mod tc;
mod verdict;

pub use address::Address;
pub use flow::{UDP_IDLE_SECONDS, has_ended, peer_key, reversed};
pub use parse::{ETHERNET_LENGTH, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
pub use tables::{
    Action, ChecksumPart, Counted, FamilyTables, Fragments, InsertError, Packet, RewriteError, Scratch, Side, Tables,
};
