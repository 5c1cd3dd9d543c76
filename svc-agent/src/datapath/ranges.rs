//! CLUSTER_RANGES: the networks whose clients keep their address when they come over an uplink. What an earlier agent was
//! told and this one was not goes after the new ranges are there.

use std::collections::BTreeSet;
use std::net::IpAddr;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData, MapError};
use ipnet::IpNet;
use svc_common::{AddrV6, map};

use super::pin::PinDir;

#[derive(thiserror::Error, Debug)]
pub enum RangeError {
    #[error("cannot write the networks of pods to map CLUSTER_RANGES: {0}")]
    Refused(#[from] MapError),
}

/// Prefix length and octets, IPv4 as IPv4-mapped IPv6.
type Range = (u32, [u8; 16]);

fn range_of(network: &IpNet) -> Range {
    let length = u32::from(network.prefix_len());
    match network.network() {
        IpAddr::V4(v4) => (length + 96, v4.to_ipv6_mapped().octets()),
        IpAddr::V6(v6) => (length, v6.octets()),
    }
}

pub struct ClusterRanges(LpmTrie<MapData, AddrV6, u32>);

impl ClusterRanges {
    pub fn open(pins: &PinDir) -> Result<Self, RangeError> {
        let data = MapData::from_pin(pins.map(map::CLUSTER_RANGES))?;
        Ok(Self(Map::LpmTrie(data).try_into()?))
    }

    /// Makes these networks the ones, without a moment in which one that stays is missing.
    pub fn write(&mut self, networks: &[IpNet]) -> Result<(), RangeError> {
        let wanted: BTreeSet<Range> = networks.iter().map(range_of).collect();
        let key = |(length, octets): &Range| Key::new(*length, AddrV6::from_octets(*octets));
        for range in &wanted {
            self.0.insert(&key(range), 1, 0)?;
        }
        let present: Vec<_> = self.0.keys().collect::<Result<_, _>>()?;
        for known in present {
            let range = (known.prefix_len(), known.data().octets());
            if !wanted.contains(&range) {
                self.0.remove(&key(&range))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_share_one_trie_and_host_bits_do_not_matter() {
        let mapped = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        let range = |text: &str| range_of(&text.parse().unwrap());
        assert_eq!(range("10.244.3.7/16"), (112, mapped("::ffff:10.244.0.0")));
        assert_eq!(range("0.0.0.0/0"), (96, mapped("::ffff:0.0.0.0")));
        assert_eq!(range("fd00:10:1::1/56"), (56, mapped("fd00:10:1::")));
    }
}
