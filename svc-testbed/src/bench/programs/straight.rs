//! Established flows with `--forwarding=direct`: the programs ask the routing table of the network namespace they run in, so they
//! run on the node of a lab that has routes to the services' addresses, into its only pod.

use std::os::fd::BorrowedFd;

use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};

use super::{OneCpu, Plan, cases, few, frame, load_as, series, world};
use crate::{
    Lab, Machine, NodeSpec,
    bench::{
        progress::Progress,
        results::{Section, Series},
    },
};

const NODE: &str = "node";
const POD: &str = "pod";
/// Where packets of the pairs of services go, by range and address.
const ROUTES: [&str; 4] = ["10.111.0.0/24", "10.244.3.0/24", "fd96::/64", "fd00:10:244:3::/64"];
const NEIGHBOURS: [&str; 6] = ["10.111.0.1", "10.111.0.2", "10.244.3.5", "fd96::1", "fd96::2", "fd00:10:244:3::5"];
const MAC: &str = "02:00:00:00:00:0c";

pub fn measure(plan: &Plan, progress: &Progress, empty: BorrowedFd<'_>, section: &mut Section) -> Result<()> {
    progress.say("building a node with routes");
    let lab = Lab::builder().node(NodeSpec::new(NODE).pods([POD])).build()?;
    let (node, pod) = (lab.machine(NODE)?, lab.machine(POD)?);
    let interface = pod.host_interface().context("the pod has no interface")?;
    for range in ROUTES {
        ip(node, &["route", "replace", range, "dev", interface])?;
    }
    for address in NEIGHBOURS {
        ip(node, &["neighbour", "replace", address, "lladdr", MAC, "dev", interface, "nud", "permanent"])?;
    }
    node.run(|| inside(plan, progress, empty, interface, section))?
}

/// On a thread in the node's namespace.
fn inside(
    plan: &Plan,
    progress: &Progress,
    empty: BorrowedFd<'_>,
    interface: &str,
    section: &mut Section,
) -> Result<()> {
    let _pinned = OneCpu::new()?;
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None).context("cannot open a socket")?;
    let index = name_to_index(&any, interface).with_context(|| format!("no interface {interface}"))?;
    let mut kernel = load_as(&world::ordinary(super::ORDINARY), true)?;
    kernel.add_pod_interface(index)?;
    let cases = cases::straight();
    let mut costs = vec![Vec::new(); cases.len()];
    for case in &cases {
        let ready = case.prepare(&kernel).and_then(|()| case.check(&kernel));
        ready.with_context(|| format!("preparing '{}: {}'", case.group, case.subject))?;
    }
    for round in 0..plan.rounds {
        progress.step(round, plan.rounds);
        for (case, costs) in cases.iter().zip(&mut costs) {
            let cases::Kind::Few(bytes) = &case.kind else { continue };
            let nothing = few(empty, &frame(), plan.repeat)?;
            costs.push(few(kernel.program(case.hook), bytes, plan.repeat)? - nothing);
        }
    }
    for (case, samples) in cases.iter().zip(costs) {
        section.series.push(Series { bar: case.bar, ..series(case.group, &case.subject, samples) });
    }
    Ok(())
}

fn ip(node: &Machine, arguments: &[&str]) -> Result<()> {
    let output =
        node.namespace().command("ip").args(arguments).output().context("cannot start ip; install iproute2")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), said.trim());
    Ok(())
}
