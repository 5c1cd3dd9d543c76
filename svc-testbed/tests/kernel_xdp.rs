//! The XDP program itself (BPF_PROG_TEST_RUN), on interfaces and routes of a network namespace: what it sends is, byte for
//! byte, what etherparse makes of the translated packet. Needs root and the object of `cargo xtask build-ebpf`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};
use svc_testbed::netns::Namespace;
use svc_testbed::packets::case::{Hook, Outcome};
use svc_testbed::packets::express::{GENERIC, NEIGHBOUR, OTHER_UPLINK_MAC, SENDS, TALKS, Talk, uplink};
use svc_testbed::packets::frame::{Checksums, Frame, NODE_MAC};
use svc_testbed::packets::kernel::{Kernel, object_path};
use svc_testbed::packets::oracle;
use svc_testbed::packets::packet::MemoryPacket;
use svc_testbed::packets::runner::{Dataplane as _, source_port};
use svc_testbed::packets::show;
use svc_testbed::wait;

const PASS: u32 = 2;
const TX: u32 = 3;
const REDIRECT: u32 = 4;

/// A connection goes through the stack for one second in 32.
const PATIENCE: Duration = Duration::from_secs(5);

/// A node with two uplinks, each with a router behind it that is known; everything goes by the first.
const NODE: &str = "
    link add up0 address 02:00:00:00:00:0b mtu 1500 type veth peer name peer0
    link add up1 address 02:00:00:00:00:0c mtu 1500 type veth peer name peer1
    link set peer0 up
    link set peer1 up
    link set up0 up
    link set up1 up
    address add 10.0.0.1/24 dev up0
    address add fd00::1/64 dev up0 nodad
    address add 10.1.0.1/24 dev up1
    address add fd01::1/64 dev up1 nodad
    neigh replace 10.0.0.254 lladdr 02:00:00:00:00:77 dev up0 nud permanent
    neigh replace fd00::fe lladdr 02:00:00:00:00:77 dev up0 nud permanent
    neigh replace 10.1.0.254 lladdr 02:00:00:00:00:77 dev up1 nud permanent
    neigh replace fd01::fe lladdr 02:00:00:00:00:77 dev up1 nud permanent
    route add default via 10.0.0.254
    route add default via fd00::fe";

struct Node {
    namespace: Namespace,
    name: String,
}

impl Node {
    fn new() -> Result<Self> {
        let name = format!("svc-xdp-{}", std::process::id());
        Namespace::delete(&name);
        let node = Self { namespace: Namespace::create(&name)?, name };
        node.ip(NODE)?;
        node.namespace.write_sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
        Ok(node)
    }

    fn ip(&self, lines: &str) -> Result<()> {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut command = self.namespace.command("ip");
            if line.contains("::") {
                command.arg("-6");
            }
            let status = command.args(line.split(' ')).stdout(Stdio::null()).status().context("cannot start ip")?;
            ensure!(status.success(), "ip {line}: {status}");
        }
        Ok(())
    }

    fn index(&self, name: &'static str) -> Result<u32> {
        self.namespace.run(|| {
            let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
            Ok(name_to_index(&socket, name)?)
        })?
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        Namespace::delete(&self.name);
    }
}

struct Bench<'a> {
    node: &'a Node,
    kernel: Kernel,
    up0: u32,
    up1: u32,
}

impl<'a> Bench<'a> {
    fn new(node: &'a Node) -> Result<Self> {
        let (up0, up1) = (node.index("up0")?, node.index("up1")?);
        let mut kernel = Kernel::load(&object_path())?;
        kernel.add_uplink(up0, uplink(NODE_MAC, 0))?;
        Ok(Self { node, kernel, up0, up1 })
    }

    fn stack(&mut self, frame: &Frame) -> Result<MemoryPacket> {
        let mut packet = frame.packet(Checksums::Complete);
        for hook in [Hook::UplinkIngress, Hook::UplinkEgress] {
            let outcome = self.kernel.run(hook, &mut packet, true).map_err(anyhow::Error::msg)?;
            ensure!(outcome == Outcome::Pass, "{hook:?}: {outcome:?}");
        }
        Ok(packet)
    }

    /// Makes the connection by way of TC; answers with the port that the node lent.
    fn establish(&mut self, talk: &Talk) -> Result<u16> {
        self.kernel.reset()?;
        talk.world().changes().iter().for_each(|change| self.kernel.apply(change));
        let first = self.stack(&talk.opening(talk.client, talk.service, true))?;
        let port = source_port(first.bytes()).context("no port")?;
        self.stack(&talk.opening(talk.pod, &talk.masqueraded(port), false))?;
        Ok(port)
    }

    fn run(&self, bytes: &[u8]) -> Result<(u32, Vec<u8>)> {
        self.node.namespace.run(|| self.kernel.run_express(bytes, self.up0))?
    }

    /// As often as it takes until the packet's connection has not its second of the stack.
    fn expect(&mut self, what: &str, frame: &Frame, verdict: u32, expected: &Frame) -> Result<()> {
        let (bytes, expected) = (frame.bytes(Checksums::Complete), expected.bytes(Checksums::Complete));
        wait::until(what, PATIENCE, || {
            let (found, sent) = self.run(&bytes)?;
            ensure!(found == verdict, "the program returned {found}, not {verdict}");
            ensure!(sent == expected, "{}", show::difference(&expected, &sent));
            // A datagram without a checksum is none for IPv6.
            if oracle::verify(&bytes).is_ok() { oracle::verify(&sent).map_err(anyhow::Error::msg) } else { Ok(()) }
        })
    }

    fn expect_left(&self, what: &str, frame: &Frame) -> Result<()> {
        let bytes = frame.bytes(Checksums::Complete);
        let (verdict, left) = self.run(&bytes).with_context(|| what.to_owned())?;
        ensure!(verdict == PASS && left == bytes, "{what}: {verdict}\n{}", show::difference(&bytes, &left));
        Ok(())
    }
}

/// The frame as the next router gets it.
fn sent_on(talk: &Talk, frame: &Frame, port: u16, from: [u8; 6]) -> Frame {
    let to_backend = frame.source == talk.client.parse().unwrap();
    let mut sent = match to_backend {
        true => frame.clone().from(&talk.masqueraded(port)).to(talk.pod),
        false => frame.clone().from(talk.service).to(talk.client),
    };
    sent.ttl -= 1;
    (sent.source_mac, sent.destination_mac) = (from, NEIGHBOUR);
    sent
}

/// In one test: the verifier takes longer than all of it.
#[test]
fn the_program_does_what_the_code_does() -> Result<()> {
    let node = Node::new()?;
    let mut bench = Bench::new(&node)?;
    packets_of_known_connections_leave_translated(&mut bench)?;
    everything_else_is_left_as_it_is(&mut bench)?;
    the_routing_table_has_the_last_word(&mut bench)
}

fn packets_of_known_connections_leave_translated(bench: &mut Bench<'_>) -> Result<()> {
    for talk in TALKS {
        let port = bench.establish(&talk)?;
        for (name, frame) in talk.ordinary(port) {
            let before = (bench.kernel.state(), bench.kernel.express_packets()?);
            let sent = sent_on(&talk, &frame, port, NODE_MAC);
            bench.expect(&format!("{talk:?}, {name}"), &frame, TX, &sent)?;
            let changes = before.0.changes(&bench.kernel.state());
            let direction = if frame.source == talk.client.parse()? { "to_backend" } else { "to_client" };
            let bytes = frame.ip_bytes(Checksums::Complete).len() - frame.trailer.len();
            let counted = format!("service 1: packets_{direction} +1, bytes_{direction} +{bytes}");
            ensure!(changes == [counted.clone()], "{talk:?}, {name}: {changes:?}, not {counted}");
            ensure!(bench.kernel.express_packets()? == before.1 + 1);
        }
    }
    Ok(())
}

fn everything_else_is_left_as_it_is(bench: &mut Bench<'_>) -> Result<()> {
    for talk in TALKS {
        let port = bench.establish(&talk)?;
        let before = bench.kernel.state();
        for (name, frame) in talk.unusual(port) {
            bench.expect_left(&format!("{talk:?}, {name}"), &frame)?;
        }
        let whole = talk.frame(talk.client, talk.service).bytes(Checksums::Complete);
        for length in 15..whole.len() {
            // Some kernels refuse frames that are shorter than a header.
            let Ok((verdict, left)) = bench.run(&whole[..length]) else { continue };
            ensure!(verdict == PASS && left == whole[..length], "{talk:?} cut to {length}: {verdict}");
        }
        let offloaded = talk.frame(talk.client, talk.service).packet(Checksums::Offloaded);
        let (verdict, left) = bench.run(offloaded.bytes())?;
        ensure!(verdict == PASS && left == offloaded.bytes(), "{talk:?}: a checksum that hardware would complete");
        let changes = before.changes(&bench.kernel.state());
        ensure!(changes.is_empty(), "{talk:?}: {changes:?}");
    }
    Ok(())
}

fn the_routing_table_has_the_last_word(bench: &mut Bench<'_>) -> Result<()> {
    let node = bench.node;
    for talk in TALKS {
        let port = bench.establish(&talk)?;
        let request = talk.frame(talk.client, talk.service);
        let sent = |from| sent_on(&talk, &request, port, from);
        let (network, host, router, other) = match talk.is_v4() {
            true => ("10.244.7.0/24", "10.244.7.9", "10.0.0.254", "10.1.0.254"),
            false => ("fd00:10:244:7::/64", "fd00:10:244:7::9", "fd00::fe", "fd01::fe"),
        };
        let what = |what: &str| format!("{talk:?}, {what}");
        node.ip(&format!("route add unreachable {network}"))?;
        bench.expect_left(&what("no route"), &request)?;
        node.ip(&format!("route del unreachable {network}"))?;
        bench.expect(&what("a route again"), &request, TX, &sent(NODE_MAC))?;

        node.ip(&format!("neigh del {router} dev up0"))?;
        bench.expect_left(&what("no neighbour"), &request)?;
        node.ip(&format!("neigh replace {router} lladdr 02:00:00:00:00:77 dev up0 nud permanent"))?;

        node.ip(&format!("route add {network} via {router} mtu lock 1280"))?;
        bench.expect_left(&what("the path's MTU"), &request.clone().payload(&[1; 1300]))?;
        bench.expect(&what("within it"), &request, TX, &sent(NODE_MAC))?;
        node.ip(&format!("route replace {network} via {other} dev up1"))?;
        bench.expect_left(&what("an interface without the program"), &request)?;
        bench.kernel.add_uplink(bench.up1, uplink(OTHER_UPLINK_MAC, 0))?;
        bench.expect_left(&what("a driver that would lose it"), &request)?;
        bench.kernel.add_uplink(bench.up1, uplink(OTHER_UPLINK_MAC, SENDS))?;
        bench.expect(&what("the other uplink"), &request, REDIRECT, &sent(OTHER_UPLINK_MAC))?;
        bench.kernel.add_uplink(bench.up1, uplink(OTHER_UPLINK_MAC, 0))?;
        bench.kernel.add_uplink(bench.up0, uplink(NODE_MAC, GENERIC))?;
        bench.expect(&what("from generic mode"), &request, REDIRECT, &sent(OTHER_UPLINK_MAC))?;
        bench.kernel.add_uplink(bench.up0, uplink(NODE_MAC, 0))?;

        node.ip(&format!("route del {network}"))?;
        node.ip(&format!("address add {host} dev up1"))?;
        bench.expect_left(&what("this node itself"), &request)?;
        node.ip(&format!("address del {host} dev up1"))?;
        bench.expect(&what("as before"), &request, TX, &sent(NODE_MAC))?;
    }
    Ok(())
}
