//! What outlives an agent, and what the next one makes of it. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::net::Ipv6Addr;

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Map, MapData};
use common::{Agent, GRANTED, lab, names_in, services, start};
use rustix::process::Signal;
use svc_agent::datapath::{Capacities, CleanupError, HOOKS, LoadError, Options, PinError, StartError, remove};
use svc_common::{AddrV6, map};

#[test]
fn a_restart_keeps_maps_and_links_and_replaces_programs() {
    lab(|lab| async move {
        lab.add_veth("veth-a", "peer-a").await;
        drop(start(lab.options()).await.unwrap());
        let (maps, links) = (lab.map_ids(), lab.link_ids());
        assert!(maps.contains_key(map::CONFIG), "{maps:?}");
        // All hooks, two programs on one interface, one on loopback.
        assert_eq!(links.len(), HOOKS.len() + 3, "{links:?}");
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
fn cluster_ranges_become_those_of_the_last_start() {
    lab(|lab| async move {
        let ranges = |lab: &common::Lab| {
            let data = MapData::from_pin(lab.pins().map(map::CLUSTER_RANGES)).unwrap();
            let trie: LpmTrie<_, AddrV6, u32> = Map::LpmTrie(data).try_into().unwrap();
            let mut keys: Vec<_> =
                trie.keys().map(|key| key.unwrap()).map(|key| (key.prefix_len(), key.data().octets())).collect();
            keys.sort_unstable();
            keys
        };
        let with = |networks: [&str; 2]| Options {
            cluster_ranges: Some(networks.map(|network| network.parse().unwrap()).to_vec()),
            ..lab.options()
        };
        let octets = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        drop(start(with(["10.244.0.0/16", "fd44::/16"])).await.unwrap());
        assert_eq!(ranges(&lab), [(16, octets("fd44::")), (112, octets("::ffff:10.244.0.0"))]);
        drop(start(with(["10.244.0.0/16", "10.0.0.0/8"])).await.unwrap());
        assert_eq!(ranges(&lab), [(104, octets("::ffff:10.0.0.0")), (112, octets("::ffff:10.244.0.0"))]);
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
        let pinned = lab.map_ids().len() + lab.links().len();
        assert_eq!(remove(&lab.bpf_root, false).await.unwrap().pins, pinned);
        assert_eq!(names_in(&lab.bpf_root), Vec::<String>::new());
        assert_eq!(remove(&lab.bpf_root, false).await.unwrap().pins, 0);

        let _running = start(lab.options()).await.unwrap();
        assert_eq!(remove(&lab.bpf_root, true).await.unwrap().pins, pinned);
    });
}

#[test]
fn killed_and_started_again_the_agent_goes_on_where_it_was() {
    lab(|lab| async move {
        lab.add_veth("veth-a", "peer-a").await;
        lab.write_service("kept", "10.96.0.1");
        lab.write_service("gone", "10.96.0.2");
        let agent = Agent::start(&lab, &[]).await;
        let (maps, links, before) = (lab.map_ids(), lab.link_ids(), services(&lab));
        assert_eq!(before.as_array().unwrap().len(), 2, "{before}");
        assert!(!agent.end(Signal::KILL).success());
        assert_eq!((lab.link_ids(), services(&lab)), (links.clone(), before.clone()), "nothing ends with the agent");

        // What has gone in the meantime is removed, what is still there keeps its place.
        fs::remove_file(lab.manifests().join("gone.yaml")).unwrap();
        let agent = Agent::start(&lab, &[]).await;
        assert_eq!(lab.map_ids(), maps);
        let after = lab.link_ids();
        assert!(after.iter().all(|(name, (link, program))| *link == links[name].0 && *program != links[name].1));
        let kept: Vec<_> = before.as_array().unwrap().iter().filter(|row| row.to_string().contains("kept")).collect();
        assert_eq!(services(&lab).as_array().unwrap().iter().collect::<Vec<_>>(), kept);

        assert!(agent.end(Signal::TERM).success());
        assert_eq!(lab.link_ids(), after, "an orderly end leaves the datapath too");
        assert_eq!(services(&lab).as_array().unwrap().len(), 1);
    });
}

#[test]
fn the_agent_needs_three_capabilities_and_names_the_missing_one() {
    lab(|lab| async move {
        lab.add_veth("veth-a", "peer-a").await;
        lab.write_service("one", "10.96.0.1");
        let agent = Agent::spawn(&lab, &["--socket-lb=all"], Some(&GRANTED));
        common::eventually(true, async || agent.log().contains(" ready") || agent.log().contains("svc-agent:")).await;
        assert!(agent.log().contains(" ready"), "{}", agent.log());
        assert!(agent.end(Signal::TERM).success());

        let (status, message) = Agent::spawn(&lab, &[], Some(&[12, 38])).wait();
        assert!(!status.success() && message.contains("CAP_BPF"), "{message}");
    });
}

#[test]
fn a_second_agent_process_ends_with_a_message() {
    lab(|lab| async move {
        let _running = start(lab.options()).await.unwrap();
        let (status, message) = Agent::spawn(&lab, &[], None).wait();
        assert_eq!(status.code(), Some(1));
        assert!(message.contains("another svc-agent") && message.contains("--bpf-root"), "{message}");
    });
}
