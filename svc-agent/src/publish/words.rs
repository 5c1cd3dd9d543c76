//! Which 64-bit word of an array element holds what: array elements are read and written word by word, each in one
//! piece, so that no reader ever sees half a field. Neighbours: `svc-common` defines the layouts.

use std::mem::offset_of;
use std::net::IpAddr;

use svc_common::{AddrV4, AddrV6, BackendEntry, Config, ServiceEntry};
use svc_datapath::filter;

use super::maps::ConfigField;

pub mod service_word {
    pub const PUBLICATION: usize = 0;
    /// Port, protocol, family and flags.
    pub const FLAGS: usize = 3;
    /// Timeout and id.
    pub const AFFINITY: usize = 4;
}

pub mod backend_word {
    /// Port, flags and generation.
    pub const STATE: usize = 2;
}

pub mod config_word {
    pub const COUNT: usize = 8;
}

const _: () = {
    assert!(offset_of!(ServiceEntry, publication) == service_word::PUBLICATION * 8);
    assert!(offset_of!(ServiceEntry, port) == service_word::FLAGS * 8);
    assert!(offset_of!(ServiceEntry, flags) == service_word::FLAGS * 8 + 4);
    assert!(offset_of!(ServiceEntry, affinity_timeout) == service_word::AFFINITY * 8);
    assert!(offset_of!(ServiceEntry, affinity_id) == service_word::AFFINITY * 8 + 4);
    assert!(offset_of!(BackendEntry, port) == backend_word::STATE * 8);
    assert!(offset_of!(BackendEntry, flags) == backend_word::STATE * 8 + 2);
    assert!(offset_of!(BackendEntry, generation) == backend_word::STATE * 8 + 4);
    assert!(size_of::<Config>() == config_word::COUNT * 8);
};

/// Index of the filter word and the bits in it that stand for `class` of `address`.
pub fn filter_position(address: IpAddr, class: u8) -> (u32, u64) {
    let slot = match address {
        IpAddr::V4(v4) => filter::slot_v4(AddrV4::from_octets(v4.octets())),
        IpAddr::V6(v6) => filter::slot_v6(AddrV6::from_octets(v6.octets())),
    };
    (slot / 8, u64::from(class) << (slot % 8 * 8))
}

pub fn with_field(config: Config, field: ConfigField) -> Config {
    match field {
        ConfigField::AbiVersion(abi_version) => Config { abi_version, ..config },
        ConfigField::Features(features) => Config { features, ..config },
        ConfigField::EventsUntil(events_until) => Config { events_until, ..config },
        ConfigField::NodeV4(node_v4) => Config { node_v4, ..config },
        ConfigField::NodeV6(node_v6) => Config { node_v6, ..config },
        ConfigField::NodeV4Interface(node_v4_interface) => Config { node_v4_interface, ..config },
    }
}
