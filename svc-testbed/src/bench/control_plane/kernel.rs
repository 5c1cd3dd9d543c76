//! What an agent has published, read from its pinned maps: when a change is visible to the programs.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, Map, MapData};
use svc_common::{ABI_VERSION, AddrV4, FrontendKeyV4, Port, Protocol, Publication, ServiceEntry, map};

pub struct Published {
    frontends: HashMap<MapData, FrontendKeyV4, u32>,
    services: Array<MapData, ServiceEntry>,
}

impl Published {
    pub fn open(bpf_root: &std::path::Path) -> Result<Self> {
        let maps = bpf_root.join(format!("svc-agent/v{ABI_VERSION}/maps"));
        let open = |name: &str| {
            let path = maps.join(name);
            MapData::from_pin(&path).with_context(|| format!("no map at {}", path.display()))
        };
        Ok(Self {
            frontends: Map::HashMap(open(map::FRONTENDS_V4)?).try_into()?,
            services: Map::Array(open(map::SERVICES)?).try_into()?,
        })
    }

    /// Index of the service of a TCP frontend.
    pub fn index(&self, address: Ipv4Addr, port: u16) -> Result<u32> {
        let address_octets = AddrV4::from_octets(address.octets());
        let key =
            FrontendKeyV4 { address: address_octets, port: Port::from_host(port), protocol: Protocol::TCP, zero: 0 };
        self.frontends.get(&key, 0).with_context(|| format!("{address}:{port} is not in the kernel"))
    }

    pub fn word(&self, index: u32) -> Result<Publication> {
        Ok(self.services.get(&index, 0)?.publication)
    }
}
