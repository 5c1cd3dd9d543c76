//! Lists read from kernel maps are those of the same content in memory. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod observe_support;

use observe_support::cluster;
use observe_support::kernel::BpfRoot;
use svc_agent::observe::backends::backend_rows;
use svc_agent::observe::drops::drop_rows;
use svc_agent::observe::flows::flow_rows;
use svc_agent::observe::label::Filter;
use svc_agent::observe::services::service_rows;
use svc_agent::observe::{MapReader, PinnedMaps};
use svc_common::map;

#[test]
fn pinned_maps_are_listed_as_they_were_filled() {
    let memory = cluster(10_000);
    let root = BpfRoot::with_maps(&memory);
    let pinned = PinnedMaps::open(root.path()).unwrap();
    let all = Filter::default();
    assert_eq!(service_rows(&pinned, &all).unwrap(), service_rows(&memory, &all).unwrap());
    assert_eq!(backend_rows(&pinned, &all).unwrap(), backend_rows(&memory, &all).unwrap());
    assert_eq!(drop_rows(&pinned).unwrap(), drop_rows(&memory).unwrap());
    assert_eq!(pinned.counted().unwrap(), memory.counted().unwrap());
    assert_eq!(pinned.express_packets().unwrap(), memory.express_packets().unwrap());

    // The clock of the kernel is another one.
    let without_time = |reader: &dyn MapReader| {
        let mut rows = flow_rows(reader, &all).unwrap();
        rows.iter_mut().for_each(|row| row.idle_seconds = 0);
        rows
    };
    assert_eq!(without_time(&pinned), without_time(&memory));
}

#[test]
fn capacities_are_those_of_the_kernel() {
    let memory = cluster(10_000);
    let root = BpfRoot::with_maps(&memory);
    assert_eq!(PinnedMaps::open(root.path()).unwrap().capacities(), memory.capacities());
}

/// More than is counted one by one.
#[test]
fn large_tables_are_estimated() {
    const FLOWS: usize = 40_000;
    let root = BpfRoot::with_maps(&cluster(10_000));
    root.fill_flows(65_536, FLOWS as u32);
    let counted = PinnedMaps::open(root.path()).unwrap().counted().unwrap();
    let flows = counted.iter().find(|fill| fill.map == map::FLOWS_V4).unwrap();
    assert_eq!(flows.capacity, 65_536);
    // Six standard deviations of a sample of 16,384 are five percent. A full list of one CPU evicts a few.
    assert!((37_000..43_000).contains(&flows.entries), "{flows:?}");
}
