//! What outlives an agent, and what the next one makes of it. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;

use common::{lab, names_in, start};
use svc_agent::datapath::{Capacities, CleanupError, LoadError, Options, PinError, StartError, remove};

#[test]
fn a_restart_keeps_maps_and_links_and_replaces_programs() {
    lab(|lab| async move {
        lab.add_veth("veth-a", "peer-a").await;
        drop(start(lab.options()).await.unwrap());
        let (maps, links) = (lab.map_ids(), lab.link_ids());
        assert_eq!((maps.len(), links.len()), (15, 10), "{maps:?} {links:?}");
        drop(start(lab.options()).await.unwrap());
        assert_eq!(lab.map_ids(), maps);
        let after = lab.link_ids();
        assert_eq!(after.len(), links.len());
        for (name, (link, program)) in &after {
            assert_eq!(*link, links[name].0, "{name}: the link was detached and attached again");
            assert_ne!(*program, links[name].1, "{name}: still the old program");
        }
    });
}

#[test]
fn a_start_cut_short_is_finished_by_the_next() {
    lab(|lab| async move {
        let index = lab.add_veth("veth-a", "peer-a").await;
        drop(start(lab.options()).await.unwrap());
        let complete = (lab.map_ids().len(), lab.links());
        // As if killed: after pinning some maps, between creating a link and pinning it, while replacing a pin.
        let links = lab.pins().links();
        fs::remove_file(links.join(format!("pod_ingress_{index}"))).unwrap();
        fs::rename(links.join("connect4"), links.join("connect4-next")).unwrap();
        fs::remove_file(lab.pins().map("EVENTS")).unwrap();
        drop(start(lab.options()).await.unwrap());
        assert_eq!((lab.map_ids().len(), lab.links()), complete);
    });
}

#[test]
fn a_map_of_another_shape_is_refused_by_name() {
    lab(|lab| async move {
        drop(start(lab.options()).await.unwrap());
        let (maps, links) = (lab.map_ids(), lab.link_ids());
        let options = Options { capacities: Capacities { flows: Some(2048) }, ..lab.options() };
        let error = start(options).await.err().unwrap();
        let StartError::Load(LoadError::MapMismatch { map, found: 1024, wanted: 2048, .. }) = &error else {
            panic!("{error}")
        };
        assert!(map.starts_with("FLOWS_V"), "{map}");
        assert!(error.to_string().contains("svc-agent cleanup"), "{error}");
        assert_eq!((lab.map_ids(), lab.link_ids()), (maps, links), "the running datapath is untouched");
    });
}

#[test]
fn a_second_agent_on_one_root_is_refused_and_on_another_is_not() {
    lab(|lab| async move {
        let index = lab.add_veth("veth-a", "peer-a").await;
        let _first = start(lab.options()).await.unwrap();
        let error = start(lab.options()).await.err().unwrap();
        assert!(matches!(error, StartError::Pin(PinError::Locked { .. })), "{error}");

        let other = lab.bpf_root.join("other");
        fs::create_dir(&other).unwrap();
        let cgroup = common::Cgroup::new();
        let second = Options { bpf_root: other.clone(), cgroup_root: Some(cgroup.0.clone()), ..lab.options() };
        let before = lab.link_ids();
        let second = start(second).await.unwrap();
        assert_eq!(lab.link_ids(), before);
        drop(second);
        remove(&other, false).await.unwrap();
        assert_eq!(lab.link_ids(), before);
        assert!(lab.links().contains(&format!("pod_ingress_{index}")));
    });
}

#[test]
fn cleanup_leaves_nothing_and_can_be_repeated() {
    lab(|lab| async move {
        lab.add_veth("veth-a", "peer-a").await;
        let running = start(lab.options()).await.unwrap();
        let error = remove(&lab.bpf_root, false).await.err().unwrap();
        assert!(matches!(error, CleanupError::InUse(_)) && error.to_string().contains("--force"), "{error}");
        drop(running);
        assert_eq!(remove(&lab.bpf_root, false).await.unwrap().pins, 25);
        assert_eq!(names_in(&lab.bpf_root), Vec::<String>::new());
        assert_eq!(remove(&lab.bpf_root, false).await.unwrap().pins, 0);

        let _running = start(lab.options()).await.unwrap();
        assert_eq!(remove(&lab.bpf_root, true).await.unwrap().pins, 25);
    });
}
