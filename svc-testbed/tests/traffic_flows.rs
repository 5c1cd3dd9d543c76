//! Connections that exist: two from one client port that meet at one pod, connections that outlive their endpoint and their
//! Service, datagrams that follow the endpoints, and what the path says about its MTU.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod traffic_support;

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use svc_testbed::{
    Client, Family, NodeSpec, Outcome, PodSpec, Shape, Tcp, Udp,
    client::{Again, expect_all, expect_replies_from},
    manifests::Endpoint,
};
use traffic_support::{AGENT_NODE, AT_ONCE, Kind, Mode, World, expect_pods, expect_seen_as, lab, service, vip};

const OUTSIDE: &str = "ext";
const CONNECTED: [Kind; 2] = [Kind::Tcp, Kind::UdpConnected];

/// A port of some machine, from which sockets of one kind talk to the pod `near`, through Services or not.
struct Origin<'a> {
    world: &'a World,
    machine: &'a str,
    client: Client,
    kind: Kind,
    family: Family,
    port: u16,
}

impl<'a> Origin<'a> {
    fn new(world: &'a World, machine: &'a str, kind: Kind, family: Family, port: u16) -> Result<Self> {
        Ok(Self { world, machine, client: world.machine(machine)?.client()?, kind, family, port })
    }

    /// Opens a socket, keeps it under `name`, and checks whom it reached and as whom.
    fn open(&self, to: SocketAddr, name: &str) -> Result<()> {
        let (port, near) = (self.port, self.world.machine("near")?);
        let samples = self.kind.probe(
            &self.client,
            to,
            |tcp| tcp.source_port(port).hold(name),
            |udp| udp.source_port(port).hold(name),
        )?;
        expect_pods(&samples, &["near"])?;
        expect_replies_from(&samples, to)?;
        let masqueraded = self.machine == OUTSIDE && near.ip(self.family) != to.ip();
        let seen_as = if masqueraded { AGENT_NODE } else { self.machine };
        expect_seen_as(&samples, self.world.machine(seen_as)?.ip(self.family))
    }

    /// Opens one socket after the other; then all of them work, again and again.
    fn share(&self, targets: &[SocketAddr]) -> Result<()> {
        for (number, to) in targets.iter().enumerate() {
            self.open(*to, &number.to_string()).with_context(|| format!("opening {to}"))?;
        }
        for round in 0..3 {
            for (number, to) in targets.iter().enumerate() {
                let samples = self.client.again(Again::on(&number.to_string()).size(1000).reply(1000).packets(2))?;
                expect_pods(&samples, &["near"]).with_context(|| format!("round {round} of {to}"))?;
                expect_replies_from(&samples, *to)?;
            }
        }
        Ok(())
    }

    /// Opens each socket after the one before is closed.
    fn hand_over(&self, targets: &[SocketAddr]) -> Result<()> {
        for to in targets {
            self.open(*to, "only").with_context(|| format!("then {to}"))?;
            self.client.close("only")?;
        }
        Ok(())
    }
}

#[test]
fn one_client_port_serves_the_service_and_its_pod_where_packets_are_translated() -> Result<()> {
    serve_the_service_and_its_pod(Mode::Tc)
}

/// A port the program chose itself is left to the packets, whatever the sockets do.
#[test]
fn one_client_port_serves_the_service_and_its_pod_where_sockets_are_translated() -> Result<()> {
    serve_the_service_and_its_pod(Mode::Socket)
}

fn serve_the_service_and_its_pod(mode: Mode) -> Result<()> {
    World::start(lab().shape(Shape::Routed).outside(OUTSIDE), mode)?.check(|world| {
        let web = service("web", 30);
        world.publish(&web, &["near"])?;
        let mut port = 21_000;
        for (family, kind) in Family::BOTH.into_iter().flat_map(|family| CONNECTED.map(|kind| (family, kind))) {
            let through = vip(&web, family, kind.ports().0);
            let direct = world.machine("near")?.address(family, kind.ports().1);
            for targets in [[through, direct], [direct, through]] {
                for machine in ["client", AGENT_NODE, OUTSIDE] {
                    // The node's own sockets have both connections' one tuple, which its kernel refuses.
                    if machine == AGENT_NODE && mode.of(kind) == Mode::Socket {
                        continue;
                    }
                    let context = || format!("{family:?} {kind:?} {targets:?} from {machine}");
                    port += 2;
                    Origin::new(world, machine, kind, family, port)?.share(&targets).with_context(context)?;
                    Origin::new(world, machine, kind, family, port + 1)?.hand_over(&targets).with_context(context)?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn one_client_port_serves_two_services_with_one_pod() -> Result<()> {
    for mode in Mode::BOTH {
        World::routed(mode)?.check(|world| {
            let services = [service("one", 31), service("two", 32), service("three", 33)];
            for service in &services {
                world.publish(service, &["near"])?;
            }
            let mut port = 22_000;
            for (family, kind) in Family::BOTH.into_iter().flat_map(|family| CONNECTED.map(|kind| (family, kind))) {
                port += 1;
                let targets = services.each_ref().map(|service| vip(service, family, kind.ports().0));
                Origin::new(world, "client", kind, family, port)?
                    .share(&targets)
                    .with_context(|| format!("{family:?} {kind:?} from port {port}"))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn established_connections_outlive_their_endpoint_and_their_service() -> Result<()> {
    for mode in Mode::BOTH {
        World::routed(mode)?.check(|world| {
            let (web, client) = (service("web", 34), world.client()?);
            world.publish(&web, &["near", "far"])?;
            for (family, name) in [(Family::V4, "v4"), (Family::V6, "v6")] {
                let to = vip(&web, family, 80);
                expect_pods(&client.tcp(Tcp::to(to).count(16).hold(name))?, &["near", "far"])?;
            }
            let still_alive = |when: &str| {
                ["v4", "v6"].iter().try_for_each(|name| {
                    let samples = client.again(Again::on(name).size(5000).reply(5000))?;
                    expect_pods(&samples, &["near", "far"]).with_context(|| format!("{name} {when}"))
                })
            };
            world.scale(&web, &["near"])?;
            still_alive("after one endpoint left")?;
            world.scale(&web, &[])?;
            still_alive("after all endpoints left")?;
            let refused = client.tcp(Tcp::to(vip(&web, Family::V4, 80)).timeout(AT_ONCE))?;
            expect_all(&refused, Outcome::Refused)?;
            world.manifests.delete_service(&web)?;
            world.wait_until_gone(&web)?;
            still_alive("after the Service was deleted")?;
            let other = service("other", 34);
            world.publish(&other, &["spare"])?;
            still_alive("after another Service got its address")?;
            expect_pods(&Kind::Tcp.talk(&client, vip(&other, Family::V6, 80), 4)?, &["spare"])
        })?;
    }
    Ok(())
}

/// As a resolver that opens one socket and keeps it: in a pod and on the node itself, whatever its endpoints do.
#[test]
fn datagrams_move_when_their_endpoint_stops_serving_and_not_before() -> Result<()> {
    const KINDS: [Kind; 2] = [Kind::UdpConnected, Kind::UdpUnconnected];
    for mode in Mode::BOTH {
        World::routed(mode)?.check(|world| {
            let dns = service("dns", 35);
            world.publish(&dns, &["near"])?;
            let clients = [world.client()?, world.machine(AGENT_NODE)?.client()?];
            let mut names = Vec::new();
            for (family, kind) in Family::BOTH.into_iter().flat_map(|family| KINDS.map(|kind| (family, kind))) {
                let (name, to) = (format!("{family:?} {kind:?}"), vip(&dns, family, 53));
                for client in &clients {
                    let samples = kind.probe(client, to, |tcp| tcp, |udp| udp.count(3).packets(2).hold(&name))?;
                    expect_pods(&samples, &["near"])?;
                }
                names.push((name, kind));
            }
            let answered_by = |pod: &str, when: &str| {
                clients.iter().enumerate().try_for_each(|(number, client)| {
                    names.iter().try_for_each(|(name, _)| {
                        let samples = client.again(Again::on(name).packets(2))?;
                        expect_pods(&samples, &[pod]).with_context(|| format!("client {number}, {name}, {when}"))
                    })
                })
            };
            world.scale(&dns, &["near", "far"])?;
            answered_by("near", "after another endpoint came")?;
            let mut endpoints: Vec<Endpoint> = Endpoint::both(world.machine("near")?).into();
            endpoints = endpoints.into_iter().map(|endpoint| endpoint.terminating(true)).collect();
            endpoints.extend(Endpoint::both(world.machine("far")?));
            world.manifests.endpoints(&dns, &endpoints)?;
            world.wait_for(&dns, "forward", &world.endpoints(&["far"])?)?;
            answered_by("near", "while their endpoint terminates and still serves")?;
            world.scale(&dns, &["far"])?;
            answered_by("far", "after their endpoint left")?;
            world.scale(&dns, &["near"])?;
            answered_by("near", "after the next one left as well")?;
            world.scale(&dns, &[])?;
            for (client, (name, kind)) in clients.iter().flat_map(|client| names.iter().map(move |name| (client, name)))
            {
                // The kernel tells an unconnected socket of an ICMP error only if it asked for that.
                if *kind == Kind::UdpConnected {
                    expect_all(&client.again(Again::on(name).timeout(AT_ONCE))?, Outcome::Refused)
                        .context(name.clone())?;
                }
            }
            world.scale(&dns, &["spare"])?;
            answered_by("spare", "after there was none for a while")?;
            world.scale(&dns, &["spare", "near", "far"])?;
            answered_by("spare", "after the service grew")
        })?;
    }
    Ok(())
}

#[test]
fn a_narrow_path_behind_the_service_is_told_to_the_client() -> Result<()> {
    for mode in Mode::BOTH {
        let lab = lab().node(NodeSpec::new("n3").pod(PodSpec::new("narrow").path_mtu(1300)));
        World::start(lab, mode)?.check(|world| {
            world.serve("narrow")?;
            let web = service("web", 36);
            world.publish(&web, &["narrow"])?;
            ensure!(world.agent.node().name() == AGENT_NODE);
            for family in Family::BOTH {
                // A client process of its own: what it knows of the path is remembered per destination.
                let client = world.client()?;
                let to = vip(&web, family, 53);
                let samples = client.udp(Udp::to(to).payload(1450).dont_fragment().timeout(AT_ONCE))?;
                expect_all(&samples, Outcome::TooBig).with_context(|| format!("{family:?}"))?;
                ensure!(samples[0].path_mtu == Some(1300), "{family:?}: {samples:#?}");
                expect_all(&client.udp(Udp::to(to).payload(1200).dont_fragment())?, Outcome::Ok)?;
                world.lab.forget_paths()?;
                let samples = client.tcp(Tcp::to(vip(&web, family, 80)).body(300_000).reply(300_000))?;
                expect_all(&samples, Outcome::Ok).with_context(|| format!("{family:?}"))?;
                ensure!(samples[0].path_mtu == Some(1300), "{family:?}: {samples:#?}");
            }
            Ok(())
        })?;
    }
    Ok(())
}
