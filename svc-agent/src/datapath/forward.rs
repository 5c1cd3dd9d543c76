//! Forwarding past the node's stack: whether programs do it, and the interfaces that lead straight into a pod (INTERFACES).
//! Neighbour: `attach` says which interfaces there are.

use std::collections::BTreeSet;

use aya::maps::MapError;
use svc_common::{interface_flag, map};

use super::mirror::Mirror;
use super::pin::PinDir;

/// How translated packets leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Forwarding {
    /// Through the node's stack, its routing and its netfilter rules.
    #[default]
    Stack,
    /// Straight into the pod or to the next hop, as the routing table says, past netfilter; anything doubtful through the
    /// stack.
    Direct,
}

#[derive(thiserror::Error, Debug)]
#[error("cannot write map INTERFACES: {0}")]
pub struct PeerError(#[from] MapError);

/// What INTERFACES holds.
pub struct Peers(Mirror<u32>);

impl Peers {
    /// Takes over what an earlier agent wrote.
    pub fn open(pins: &PinDir) -> Result<Self, PeerError> {
        Ok(Self(Mirror::open(pins, map::INTERFACES)?))
    }

    /// Makes the map hold exactly these interfaces. What fails is tried again by the next call.
    pub fn set(&mut self, wanted: &BTreeSet<u32>) -> Result<(), PeerError> {
        let flags = wanted.iter().map(|&index| (index, interface_flag::PEER)).collect();
        Ok(self.0.set(&flags)?)
    }
}
