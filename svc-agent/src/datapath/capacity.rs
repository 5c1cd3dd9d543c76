//! How large the flow tables are when nobody says so: a share of the machine's memory, as nf_conntrack has it. Tables that
//! exist keep their size. Neighbour: `load` makes and adopts maps, and refuses a size other than the one asked for.

use aya::maps::MapInfo;
use svc_common::map;

use super::load::{Capacities, LoadError, is_missing};
use super::pin::PinDir;

/// An entry of each family takes about 300 bytes together: less than a hundredth of the memory.
const MEMORY_PER_ENTRY: u64 = 32 * 1024;
const LEAST: u64 = 1 << 16;
const MOST: u64 = 1 << 20;

/// Fills in what was not asked for.
pub fn choose(asked: Capacities, pins: &PinDir) -> Result<Capacities, LoadError> {
    if asked.flows.is_some() {
        return Ok(asked);
    }
    let (flows, reason) = match MapInfo::from_pin(pins.map(map::FLOWS_V4)) {
        Ok(found) => (found.max_entries(), "found"),
        Err(error) if is_missing(&error) => (flow_entries(total_memory()), "by memory"),
        Err(error) => return Err(LoadError::MapUnreadable { map: map::FLOWS_V4.to_owned(), error }),
    };
    tracing::info!(entries = flows, reason, "size of the flow tables");
    Ok(Capacities { flows: Some(flows) })
}

/// A power of two, so that a little more or less memory makes no difference.
fn flow_entries(memory: u64) -> u32 {
    let entries = (memory / MEMORY_PER_ENTRY).clamp(LEAST, MOST);
    1 << entries.ilog2()
}

fn total_memory() -> u64 {
    let info = rustix::system::sysinfo();
    // Both are unsigned long, which is not u64 everywhere.
    #[expect(clippy::useless_conversion, reason = "a conversion on 32-bit machines")]
    u64::from(info.totalram).saturating_mul(u64::from(info.mem_unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flow_tables_follow_memory_within_bounds() {
        const GIB: u64 = 1 << 30;
        let sizes = [GIB / 2, 2 * GIB, 8 * GIB - 1, 8 * GIB, 16 * GIB + 5, 64 * GIB, 2048 * GIB].map(flow_entries);
        assert_eq!(sizes, [65_536, 65_536, 131_072, 262_144, 524_288, 1_048_576, 1_048_576]);
    }
}
