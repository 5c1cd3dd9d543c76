//! Programs are on the interfaces and hooks that should have them, and nowhere else. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::net::Ipv4Addr;

use aya::programs::links::PinnedLink;
use aya::programs::{SchedClassifier, TcAttachType};
use common::{Lab, eventually, lab, names_in, start};
use futures::TryStreamExt;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcOption};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};
use svc_agent::datapath::{AttachMode, InterfaceCounts, Options, Pattern, SocketLb, StartError, Uplinks, remove};
use svc_common::feature;

/// Names of our programs on an interface's clsact hooks.
async fn filters(lab: &Lab, index: u32) -> Vec<String> {
    let mut found = Vec::new();
    for ingress in [true, false] {
        let request = lab.netlink.traffic_filter(index as i32).get();
        let request = if ingress { request.ingress() } else { request.egress() };
        let Ok(messages) = request.execute().try_collect::<Vec<_>>().await else { continue };
        for attribute in messages.into_iter().flat_map(|message| message.attributes) {
            let TcAttribute::Options(options) = attribute else { continue };
            found.extend(options.into_iter().filter_map(|option| match option {
                TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name),
                _ => None,
            }));
        }
    }
    found.sort();
    found
}

fn link_names(pods: &[u32], uplinks: &[u32]) -> Vec<String> {
    let mut names: Vec<_> = pods.iter().flat_map(|i| [format!("pod_egress_{i}"), format!("pod_ingress_{i}")]).collect();
    names.extend(uplinks.iter().flat_map(|i| [format!("uplink_egress_{i}"), format!("uplink_ingress_{i}")]));
    // Loopback, which every network namespace has.
    names.push("uplink_ingress_1".to_owned());
    names.sort();
    names
}

fn without_hooks(lab: &Lab) -> Options {
    Options { socket_lb: SocketLb::Off, ..lab.options() }
}

async fn add_default_route(lab: &Lab, interface: u32) {
    let route = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(interface).build();
    lab.netlink.route().add(route).execute().await.unwrap();
}

#[test]
fn links_follow_interfaces_as_they_come_and_go() {
    lab(|lab| async move {
        let first = lab.add_veth("veth-a", "peer-a").await;
        let (follower, _lock, _) = start(without_hooks(&lab)).await.unwrap();
        let counts = follower.counts();
        assert_eq!(lab.links(), link_names(&[first], &[]), "everything there is attached before the start returns");
        assert_eq!(counts.borrow().pods, 1);
        tokio::spawn(follower.run());

        let second = lab.add_veth("veth-b", "peer-b").await;
        eventually(link_names(&[first, second], &[]), async || lab.links()).await;
        lab.delete(first).await;
        eventually(link_names(&[second], &[]), async || lab.links()).await;

        let rename = LinkUnspec::new_with_index(second).name("other".to_owned()).down().build();
        lab.netlink.link().set(rename).execute().await.unwrap();
        eventually(link_names(&[], &[]), async || lab.links()).await;
        eventually(InterfaceCounts::default(), async || *counts.borrow()).await;
    });
}

#[test]
fn an_interface_with_a_used_index_gets_programs_of_its_own() {
    lab(|lab| async move {
        let index = lab.add_veth("veth-a", "peer-a").await;
        let (follower, lock, _) = start(without_hooks(&lab)).await.unwrap();
        let before = lab.link_ids();
        drop((follower, lock));
        // While no agent runs, the interface goes and another one comes with its index.
        lab.delete(index).await;
        let again = rtnetlink::LinkVeth::new("veth-z", "peer-z").index(index).build();
        lab.netlink.link().add(again).execute().await.unwrap();
        let _running = start(without_hooks(&lab)).await.unwrap();
        let after = lab.link_ids();
        assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
        for (name, (link, _)) in after.iter().filter(|(name, _)| name.starts_with("pod_")) {
            assert_ne!(*link, before[name].0, "{name} is a link of the interface that is gone");
        }
    });
}

#[test]
fn uplinks_follow_the_default_route() {
    lab(|lab| async move {
        let first = lab.add_veth("up-a", "peer-a").await;
        let second = lab.add_veth("up-b", "peer-b").await;
        for name in ["peer-a", "peer-b"] {
            let peer = LinkUnspec::new_with_index(lab.index(name).await).up().build();
            lab.netlink.link().set(peer).execute().await.unwrap();
        }
        let address = Ipv4Addr::new(192, 0, 2, 7);
        lab.netlink.address().add(first, address.into(), 24).execute().await.unwrap();
        add_default_route(&lab, first).await;
        let (follower, _lock, _) = start(without_hooks(&lab)).await.unwrap();
        assert_eq!(lab.links(), link_names(&[], &[first]));
        let addresses = follower.addresses();
        assert_eq!(addresses.borrow().uplink.v4, Some(address));
        tokio::spawn(follower.run());

        let down = LinkUnspec::new_with_index(first).down().build();
        lab.netlink.link().set(down).execute().await.unwrap();
        add_default_route(&lab, second).await;
        eventually(link_names(&[], &[second]), async || lab.links()).await;
        let address = Ipv4Addr::new(198, 51, 100, 7);
        lab.netlink.address().add(second, address.into(), 24).execute().await.unwrap();
        eventually(Some(address), async || addresses.borrow().uplink.v4).await;
    });
}

#[test]
fn named_uplinks_and_pod_patterns_are_taken_literally() {
    lab(|lab| async move {
        let pod = lab.add_veth("my-pod", "veth-not").await;
        let uplink = lab.add_veth("up0", "peer").await;
        let mut options = without_hooks(&lab);
        options.selection.pods = vec!["my-*".parse::<Pattern>().unwrap()];
        options.selection.uplinks = Uplinks::Named(vec!["up0".parse().unwrap()]);
        let _running = start(options).await.unwrap();
        assert_eq!(lab.links(), link_names(&[pod], &[uplink]));
    });
}

#[test]
fn clsact_filters_follow_interfaces_and_are_replaced_in_place() {
    lab(|lab| async move {
        let options = || Options { attach_mode: Some(AttachMode::Clsact), ..without_hooks(&lab) };
        let both = || vec!["pod_egress".to_owned(), "pod_ingress".to_owned()];
        let first = lab.add_veth("veth-a", "peer-a").await;
        let (follower, lock, _) = start(options()).await.unwrap();
        assert_eq!(filters(&lab, first).await, both());
        assert_eq!(lab.links(), Vec::<String>::new());
        drop((follower, lock));
        // A second start puts its programs into the same filters.
        let (follower, lock, _) = start(options()).await.unwrap();
        assert_eq!(filters(&lab, first).await, both());
        let follower = tokio::spawn(follower.run());
        let second = lab.add_veth("veth-b", "peer-b").await;
        eventually(both(), async || filters(&lab, second).await).await;
        follower.abort();
        let _ = follower.await;
        drop(lock);

        // Another choice of interfaces takes the filters off the ones no longer wanted.
        let mut other = options();
        other.selection.pods = vec!["veth-b".parse().unwrap()];
        let running = start(other).await.unwrap();
        assert_eq!((filters(&lab, first).await, filters(&lab, second).await), (Vec::new(), both()));
        drop(running);
        // Two, and that of loopback.
        assert_eq!(remove(&lab.bpf_root, false).await.unwrap().filters, 3);
        assert_eq!(filters(&lab, second).await, Vec::<String>::new());
    });
}

#[test]
fn a_cleanup_has_detached_everything_when_it_returns() {
    lab(|lab| async move {
        lab.add_veth("veth-a", "peer-a").await;
        drop(start(lab.options()).await.unwrap());
        let attached = |at| SchedClassifier::query_tcx("veth-a", at).map(|(_, programs)| programs.len());
        if attached(TcAttachType::Ingress).is_err() {
            eprintln!("skipped: this kernel has no TCX");
            return;
        }
        // As long as somebody holds a link, the end of its pin alone changes nothing.
        let pin = |name: &String| PinnedLink::from_pin(lab.pins().links().join(name)).unwrap();
        let held: Vec<PinnedLink> = lab.links().iter().map(pin).collect();
        for (at, before) in [(TcAttachType::Ingress, 1), (TcAttachType::Egress, 1)] {
            assert_eq!(attached(at).unwrap(), before, "{at:?}");
        }
        assert!(remove(&lab.bpf_root, false).await.unwrap().pins > held.len());
        for at in [TcAttachType::Ingress, TcAttachType::Egress] {
            assert_eq!(attached(at).unwrap(), 0, "{at:?}");
        }
        assert_eq!(remove(&lab.bpf_root, false).await.unwrap().pins, 0);
    });
}

#[test]
fn socket_hooks_come_and_go_with_the_mode() {
    lab(|lab| async move {
        let hooks = ["bind4", "bind6", "connect4", "connect6", "getpeername4", "getpeername6"];
        for (mode, features, expected) in [
            (SocketLb::All, feature::SOCKET_LB_ALL, &hooks[..]),
            (SocketLb::Host, feature::SOCKET_LB_HOST, &hooks[..]),
            (SocketLb::Off, 0, &[]),
            (SocketLb::All, feature::SOCKET_LB_ALL, &hooks[..]),
        ] {
            let running = start(Options { socket_lb: mode, ..lab.options() }).await.unwrap();
            assert_eq!(running.2, [features], "{mode:?}");
            let mut links = lab.links();
            links.retain(|link| !link.starts_with("uplink_"));
            assert_eq!(links, expected, "{mode:?}");
        }
    });
}

#[test]
fn hooks_move_to_another_cgroup_root() {
    lab(|lab| async move {
        drop(start(lab.options()).await.unwrap());
        let before = lab.link_ids();
        let other = common::Cgroup::new();
        drop(start(Options { cgroup_root: Some(other.0.clone()), ..lab.options() }).await.unwrap());
        let after = lab.link_ids();
        let mut hooks = after.iter().filter(|(name, _)| !name.starts_with("uplink_"));
        assert!(hooks.all(|(name, ids)| ids.0 != before[name].0), "{before:?} {after:?}");
    });
}

#[test]
fn what_is_missing_is_named_with_its_remedy() {
    lab(|lab| async move {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { bpf_root: directory.path().to_path_buf(), ..lab.options() };
        let message = start(options).await.err().unwrap().to_string();
        assert!(message.contains("mount -t bpf bpf"), "{message}");
        assert_eq!(names_in(directory.path()), Vec::<String>::new(), "a failed start leaves nothing");

        let options = Options { cgroup_root: Some(directory.path().to_path_buf()), ..lab.options() };
        let error = start(options).await.err().unwrap();
        assert!(matches!(error, StartError::Preflight(_)) && error.to_string().contains("--cgroup-root"), "{error}");
        assert_eq!(names_in(&lab.bpf_root), Vec::<String>::new(), "a failed start leaves nothing");
    });
}
