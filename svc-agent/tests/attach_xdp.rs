//! The XDP program is on the uplinks that take it, in the mode asked for, and nowhere else; a restart keeps its links.
//! Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeMap;

use aya::maps::{HashMap, Map, MapData};
use aya::programs::{Xdp as XdpProgram, xdp::XdpMode};
use aya::{Ebpf, EbpfLoader};
use common::{Lab, eventually, lab, start};
use rtnetlink::{LinkBridge, LinkUnspec};
use svc_agent::datapath::{Options, SocketLb, Uplinks, Xdp, XdpCounts};
use svc_common::{Uplink, map, program, uplink_flag};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SVC_EBPF_OBJECT"));

fn options(lab: &Lab, xdp: Xdp) -> Options {
    let mut options = Options { socket_lb: SocketLb::Off, xdp, ..lab.options() };
    options.selection.uplinks = Uplinks::Named(vec!["up-*".parse().unwrap()]);
    options
}

/// Our XDP links by interface: identifiers of link and program.
fn express(lab: &Lab) -> BTreeMap<u32, (u32, u32)> {
    let prefix = format!("{}_", program::UPLINK_XDP);
    let ours = |(name, ids): (String, _)| Some((name.strip_prefix(&prefix)?.parse().unwrap(), ids));
    lab.link_ids().into_iter().filter_map(ours).collect()
}

/// What the programs know.
fn uplinks(lab: &Lab) -> BTreeMap<u32, Uplink> {
    let data = MapData::from_pin(lab.pins().map(map::UPLINKS)).unwrap();
    let map: HashMap<_, u32, Uplink> = Map::HashMap(data).try_into().unwrap();
    map.iter().collect::<Result<_, _>>().unwrap()
}

/// A program of somebody else's on an interface, as long as the value lives.
fn occupy(interface: &str) -> Ebpf {
    let mut ebpf = EbpfLoader::new().load(OBJECT).unwrap();
    let program: &mut XdpProgram = ebpf.program_mut(program::UPLINK_XDP).unwrap().try_into().unwrap();
    program.load().unwrap();
    program.attach(interface, XdpMode::Driver).unwrap();
    ebpf
}

const fn counts(native: usize, generic: usize, without: usize) -> XdpCounts {
    XdpCounts { native, generic, without }
}

/// In one test: the verifier takes longer than all of it.
#[test]
fn uplinks_carry_it_in_the_mode_asked_for() {
    lab(|lab| async move {
        let plain = lab.add_veth("up-a", "peer-a").await;
        let taken = lab.add_veth("up-b", "peer-b").await;
        lab.netlink.link().add(LinkBridge::new("up-bridge").build()).execute().await.unwrap();
        let bridge = lab.index("up-bridge").await;
        lab.add_veth("veth-pod", "peer-pod").await;
        let somebody = occupy("up-b");

        // A bridge has no XDP of its own, and where somebody else's program is, ours is not.
        let (follower, lock, _) = start(options(&lab, Xdp::Auto)).await.unwrap();
        assert_eq!(follower.counts().borrow().xdp, counts(1, 1, 1));
        let first = express(&lab);
        assert_eq!(first.keys().copied().collect::<Vec<_>>(), [plain, bridge]);
        let known = uplinks(&lab);
        assert_eq!(known.keys().copied().collect::<Vec<_>>(), [plain, bridge]);
        assert_eq!(known[&plain].flags & uplink_flag::GENERIC, 0);
        assert_eq!(known[&bridge].flags & uplink_flag::GENERIC, uplink_flag::GENERIC);
        assert_ne!(known[&plain].address, [0; 3]);
        drop((follower, lock));

        // The next agent's program comes into the same link, unless the mode is another one.
        let (follower, lock, _) = start(options(&lab, Xdp::Native)).await.unwrap();
        let found = follower.counts();
        assert_eq!(found.borrow().xdp, counts(1, 0, 2));
        let second = express(&lab);
        assert_eq!(second.keys().copied().collect::<Vec<_>>(), [plain]);
        assert_eq!(second[&plain].0, first[&plain].0, "the link stays");
        assert_ne!(second[&plain].1, first[&plain].1, "the program does not");
        let follower = tokio::spawn(follower.run());
        // Tried again when the interface changes.
        drop(somebody);
        let changed = LinkUnspec::new_with_index(taken).mtu(1400).build();
        lab.netlink.link().set(changed).execute().await.unwrap();
        eventually(counts(2, 0, 1), async || found.borrow().xdp).await;
        assert_eq!(uplinks(&lab).into_keys().collect::<Vec<_>>(), [plain, taken]);
        lab.delete(taken).await;
        eventually(vec![plain], async || uplinks(&lab).into_keys().collect()).await;
        eventually(vec![plain], async || express(&lab).into_keys().collect()).await;
        follower.abort();
        let _ = follower.await;
        drop(lock);

        let _running = start(options(&lab, Xdp::Off)).await.unwrap();
        assert_eq!((express(&lab).len(), uplinks(&lab).len()), (0, 0));
    });
}
