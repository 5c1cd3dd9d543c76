//! Forwarding past the node's stack: whether programs do it, and the interfaces that lead straight into a pod (INTERFACES).
//! Neighbour: `attach` says which interfaces there are.

use std::collections::BTreeSet;

use aya::maps::{HashMap, Map, MapData, MapError};
use svc_common::{interface_flag, map};

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
pub struct Peers {
    map: HashMap<MapData, u32, u32>,
    written: BTreeSet<u32>,
}

impl Peers {
    /// Takes over what an earlier agent wrote.
    pub fn open(pins: &PinDir) -> Result<Self, PeerError> {
        let map: HashMap<MapData, u32, u32> = Map::HashMap(MapData::from_pin(pins.map(map::INTERFACES))?).try_into()?;
        let written = map.keys().collect::<Result<_, _>>()?;
        Ok(Self { map, written })
    }

    /// Makes the map hold exactly these interfaces. What fails is tried again by the next call.
    pub fn set(&mut self, wanted: &BTreeSet<u32>) -> Result<(), PeerError> {
        for index in &self.written - wanted {
            match self.map.remove(&index) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error.into()),
            }
            self.written.remove(&index);
        }
        for index in wanted - &self.written {
            self.map.insert(index, interface_flag::PEER, 0)?;
            self.written.insert(index);
        }
        Ok(())
    }
}
