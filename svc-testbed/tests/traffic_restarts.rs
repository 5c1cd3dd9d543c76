//! The agent ends and starts again, gently and not, while clients use a ClusterIP: nobody notices. And what cleanup leaves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod traffic_support;

use std::{
    collections::BTreeMap,
    fs,
    os::fd::AsRawFd as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use svc_testbed::{
    Client, Family, Load, Outcome, Tcp, Udp,
    client::{Again, LoadReport, by_pod, expect_all},
    manifests::ServiceSpec,
    wait,
};
use traffic_support::{Kind, Mode, PATIENCE, WEB, World, expect_pods, service, vip};

/// Of each sort, in each mode: twice as many in all.
const RESTARTS: usize = 5;
/// Two of these and wrk keep a small machine busy; the agent has to start beside them.
const PAUSE: Duration = Duration::from_millis(1);
/// Longer than the test; it is ended when the restarts are done.
const WRK_SECONDS: u32 = 600;

#[test]
fn ten_restarts_and_ten_kills_under_load_are_not_noticed() -> Result<()> {
    for mode in Mode::BOTH {
        World::routed(mode)?.check(|world| {
            let web = service("web", 60);
            world.publish(&web, &["near", "far"])?;
            let (client, other) = (world.client()?, world.machine("spare")?.client()?);
            let held = hold(&client, &web)?;
            let loads = [(&client, Family::V4), (&other, Family::V6)];
            let load = |(client, family)| {
                Client::start_load(client, Load::to(vip(&web, family, WEB)).keepalive(4).fresh(2).pause(PAUSE))
            };
            let running = loads.map(load).into_iter().collect::<Result<Vec<_>>>()?;
            let wrk = Wrk::start(world, &web)?;
            for number in 0..2 * RESTARTS {
                if number < RESTARTS {
                    world.agent.stop()?;
                } else {
                    world.agent.kill()?;
                }
                still_works(&client, &web, &held).with_context(|| format!("without an agent, restart {number}"))?;
                world.agent.restart()?;
                still_works(&client, &web, &held).with_context(|| format!("with the next agent, restart {number}"))?;
            }
            for running in running {
                expect_no_loss(&running.stop()?)?;
            }
            if let Some(wrk) = wrk {
                wrk.finish()?;
            }
            // A service that comes now is served: the last agent follows what happens.
            let late = service("late", 61);
            world.publish(&late, &["spare"])?;
            expect_pods(&Kind::Tcp.talk(&client, vip(&late, Family::V6, WEB), 4)?, &["spare"])
        })?;
    }
    Ok(())
}

/// Sockets by name, and how many of them each pod serves.
type Held = BTreeMap<String, BTreeMap<String, usize>>;

/// Connections and sockets that live through everything that follows.
fn hold(client: &Client, web: &ServiceSpec) -> Result<Held> {
    let mut held = Held::new();
    for (family, number) in [(Family::V4, "4"), (Family::V6, "6")] {
        for (kind, name) in [(Kind::Tcp, "tcp"), (Kind::UdpConnected, "udp"), (Kind::UdpUnconnected, "any")] {
            let name = format!("{name}{number}");
            let to = vip(web, family, kind.ports().0);
            let samples = kind.probe(client, to, |tcp| tcp.count(8).hold(&name), |udp| udp.count(8).hold(&name))?;
            expect_all(&samples, Outcome::Ok)?;
            held.insert(name, by_pod(&samples));
        }
    }
    Ok(held)
}

/// The held sockets work and still talk to the pod they began with.
fn still_works(client: &Client, web: &ServiceSpec, held: &Held) -> Result<()> {
    for (name, pods) in held {
        // Twice, so that a socket which moved to another pod shows both.
        let samples = client.again(Again::on(name).size(1000).reply(1000).packets(2))?;
        expect_all(&samples, Outcome::Ok).with_context(|| name.clone())?;
        let stayed = by_pod(&samples) == *pods && samples.iter().all(|sample| sample.backends.len() == 1);
        ensure!(stayed, "{name} moved from {pods:?}: {samples:#?}");
    }
    for family in Family::BOTH {
        expect_all(&client.tcp(Tcp::to(vip(web, family, WEB)).count(8))?, Outcome::Ok)?;
    }
    Ok(())
}

fn expect_no_loss(report: &LoadReport) -> Result<()> {
    println!("{} requests on {} connections", report.requests, report.connections);
    ensure!(report.failed() == 0, "{report:#?}");
    ensure!(report.requests > 1000, "that was no load: {report:#?}");
    ensure!(report.backends.keys().eq(["far", "near"]), "{report:#?}");
    Ok(())
}

/// `wrk` in the client's pod, where it is installed.
struct Wrk(Child);

impl Wrk {
    fn start(world: &World, web: &ServiceSpec) -> Result<Option<Self>> {
        let installed =
            Command::new("wrk").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
        if !installed {
            println!("wrk is not installed: the lab's own load is all there is");
            return Ok(None);
        }
        let mut command = world.machine("client")?.command("wrk")?;
        command.args(["-t1", "-c8", "--timeout=5s", &format!("-d{WRK_SECONDS}s")]);
        command.arg(format!("http://{}/?reply=2000", vip(web, Family::V4, WEB)));
        Ok(Some(Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot start wrk")?)))
    }

    /// Ends it and reads its report: it names errors only if there were any.
    fn finish(self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        let output = self.0.wait_with_output()?;
        let report = String::from_utf8_lossy(&output.stdout);
        ensure!(report.contains("requests in"), "wrk printed {report}{}", String::from_utf8_lossy(&output.stderr));
        println!("{report}");
        ensure!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "wrk lost something:\n{report}");
        Ok(())
    }
}

#[test]
fn what_changed_while_no_agent_ran_is_caught_up_with() -> Result<()> {
    for mode in Mode::BOTH {
        World::routed(mode)?.check(|world| {
            let (web, leaves, client) = (service("web", 62), service("leaves", 63), world.client()?);
            world.publish(&web, &["near"])?;
            world.publish(&leaves, &["near"])?;
            let tcp = client.tcp(Tcp::to(vip(&web, Family::V4, WEB)).count(4).hold("tcp"))?;
            expect_pods(&tcp, &["near"])?;
            for (family, name) in [(Family::V4, "udp4"), (Family::V6, "udp6")] {
                expect_pods(&client.udp(Udp::to(vip(&web, family, 53)).count(4).hold(name))?, &["near"])?;
            }
            for end in [svc_testbed::AgentProcess::stop, svc_testbed::AgentProcess::kill] {
                end(&mut world.agent)?;
                world.manifests.endpoints(&web, &world.endpoints(&["far"])?)?;
                world.manifests.delete_service(&leaves)?;
                let new = service("new", 64);
                world.manifests.service(&new)?;
                world.manifests.endpoints(&new, &world.endpoints(&["spare"])?)?;
                // Nobody is there to follow: the kernel goes on with what it has.
                expect_pods(&Kind::Tcp.talk(&client, vip(&web, Family::V4, WEB), 4)?, &["near"])?;
                world.agent.restart()?;
                world.wait_for(&web, "forward", &world.endpoints(&["far"])?)?;
                world.wait_for(&new, "forward", &world.endpoints(&["spare"])?)?;
                world.wait_until_gone(&leaves)?;
                for family in Family::BOTH {
                    expect_pods(&Kind::Tcp.talk(&client, vip(&web, family, WEB), 8)?, &["far"])?;
                    expect_pods(&Kind::UdpConnected.talk(&client, vip(&new, family, 53), 4)?, &["spare"])?;
                }
                for name in ["udp4", "udp6"] {
                    expect_pods(&client.again(Again::on(name).packets(2))?, &["far"])
                        .with_context(|| name.to_owned())?;
                }
                expect_pods(&client.again(Again::on("tcp"))?, &["near"]).context("established TCP stays")?;
                // And back, for the next round.
                world.manifests.delete_service(&new)?;
                world.wait_until_gone(&new)?;
                world.publish(&leaves, &["near"])?;
                world.scale(&web, &["near"])?;
                for name in ["udp4", "udp6"] {
                    expect_pods(&client.again(Again::on(name))?, &["near"]).with_context(|| name.to_owned())?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn cleanup_leaves_nothing_behind() -> Result<()> {
    for mode in Mode::BOTH {
        World::routed(mode)?.check(|world| {
            let (web, client) = (service("web", 65), world.client()?);
            world.publish(&web, &["near"])?;
            expect_pods(&Kind::Tcp.talk(&client, vip(&web, Family::V4, WEB), 2)?, &["near"])?;
            let (interfaces, hooks) = (8, if mode == Mode::Socket { 6 } else { 0 });
            ensure!(attached(world)? >= interfaces + hooks, "only {} programs are attached", attached(world)?);
            ensure!(world.agent.cleanup().is_err(), "an agent that runs is not cleaned up after without --force");
            world.agent.kill()?;
            let said = world.agent.cleanup()?;
            ensure!(said.contains("removed"), "{said}");
            let pins = files_below(world.agent.bpf_root())?;
            ensure!(pins.is_empty(), "pins are left: {pins:?}");
            // Links end a moment after their last pin.
            wait::until_value("nothing is attached", PATIENCE, || attached(world), |count| *count == 0)?;
            let silent = client.tcp(Tcp::to(vip(&web, Family::V4, WEB)).timeout(traffic_support::AT_ONCE))?;
            ensure!(silent[0].outcome != Outcome::Ok, "the address means nothing any more: {silent:#?}");
            expect_pods(&Kind::Tcp.talk(&client, world.machine("near")?.address(Family::V6, 8080), 2)?, &["near"])?;
            // An agent that starts on the clean node works.
            world.agent.restart()?;
            world.wait_for(&web, "forward", &world.endpoints(&["near"])?)?;
            expect_pods(&Kind::UdpConnected.talk(&client, vip(&web, Family::V4, 53), 2)?, &["near"])
        })?;
    }
    Ok(())
}

fn files_below(root: &std::path::Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(root) else { return Ok(found) };
    for entry in entries {
        let path = entry?.path();
        found.push(path.display().to_string());
        if path.is_dir() {
            found.extend(files_below(&path)?);
        }
    }
    Ok(found)
}

/// Programs on the interfaces and on the cgroup of the agent's node.
fn attached(world: &World) -> Result<usize> {
    let node = world.agent.node();
    let pods = world.lab.pods_of(node.name()).filter_map(|pod| pod.host_interface());
    let interfaces: Vec<&str> = pods.chain(["eth0"]).collect();
    let on_interfaces = node.run(|| {
        let sides = [TcAttachType::Ingress, TcAttachType::Egress];
        let all = interfaces.iter().flat_map(|name| sides.map(|side| SchedClassifier::query_tcx(name, side)));
        all.map(|found| Ok(found?.1.len())).sum::<Result<usize>>()
    })??;
    Ok(on_interfaces + cgroup_programs(world.agent.cgroup_root())?)
}

fn cgroup_programs(root: &std::path::Path) -> Result<usize> {
    /// The part of `union bpf_attr` that BPF_PROG_QUERY reads.
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        target: u32,
        attach_type: u32,
        flags: u32,
        attach_flags: u32,
        programs: u64,
        count: u32,
        zero: [u32; 9],
    }
    const BPF_PROG_QUERY: libc::c_int = 16;
    // All that kernels have so far; for those that are not of cgroups the kernel says EINVAL.
    const ATTACH_TYPES: u32 = 64;
    let directory = fs::File::open(root).with_context(|| format!("cannot open {}", root.display()))?;
    let mut total = 0;
    for attach_type in 0..ATTACH_TYPES {
        let mut query = Query { target: directory.as_raw_fd() as u32, attach_type, ..Query::default() };
        // SAFETY: without room for program identifiers the kernel only writes the count into the structure it is given.
        let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
        if result == 0 {
            total += query.count as usize;
        }
    }
    Ok(total)
}
