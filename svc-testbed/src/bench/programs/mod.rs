//! `programs`: nanoseconds a TC program takes for a packet, by case, without its surroundings: BPF_PROG_TEST_RUN, net of a program
//! that does nothing. Neighbours: `world` has services that stand repetition, `cases` the packets.

mod cases;
mod straight;
mod world;

use std::{
    collections::HashMap,
    os::fd::{AsFd, BorrowedFd},
};

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use svc_common::map;

use self::cases::{Case, Kind};
use super::{
    progress::Progress,
    results::{Better, Section, Series},
    statistics::median,
};
use crate::packets::{
    frame::{Checksums, udp},
    kernel::{Kernel, object_path},
    testrun,
    world::World,
};

pub const NAME: &str = "programs";

/// Services beside which established flows and first packets are measured.
const ORDINARY: u32 = 1_000;
/// Room for the largest number of services that is measured.
const CAPACITIES: [(&str, u32); 3] =
    [(map::SERVICES, 1 << 17), (map::FRONTENDS_V4, 1 << 18), (map::FRONTENDS_V6, 1 << 18)];
/// First packets one after another from one source port, where the number of services does not allow more.
const STEPS: u32 = 10;

pub struct Plan {
    pub rounds: usize,
    /// Runs for each round of a case whose packet can be repeated.
    pub repeat: u32,
    /// Source ports for each round of a case about first packets.
    pub ports: u16,
    pub scale: Vec<u32>,
}

impl Plan {
    pub fn quick() -> Self {
        Self { rounds: 7, repeat: 200_000, ports: 20, scale: vec![10, 1_000, 10_000] }
    }

    pub fn full() -> Self {
        Self { rounds: 11, repeat: 1_000_000, ports: 50, scale: vec![10, 100, 1_000, 10_000, 100_000] }
    }
}

pub fn measure(plan: &Plan, progress: &Progress) -> Result<Section> {
    let mut section = Section::new(NAME, "Cost of the TC programs, by packet");
    section.note(format!(
        "BPF_PROG_TEST_RUN, the program's own time on one core, less that of an empty program; {} rounds over all cases, \
         {} runs each; {ORDINARY} services of each kind in the maps",
        plan.rounds, plan.repeat
    ));
    section.note(
        "Every run translates: services lead to each other, so that the packet a run left is one to translate for the next",
    );
    let empty = testrun::load_empty().context("loading an empty program")?;
    let _pinned = OneCpu::new()?;
    progress.say("loading the programs");
    let mut bench = Bench { kernel: load(&world::ordinary(ORDINARY))?, port: HashMap::new() };
    let cases = cases::all();
    for case in &cases {
        let ready = case.prepare(&bench.kernel).and_then(|()| case.check(&bench.kernel));
        ready.with_context(|| format!("preparing '{}: {}'", case.group, case.subject))?;
    }
    let mut costs = vec![Vec::new(); cases.len()];
    for round in 0..plan.rounds {
        progress.step(round, plan.rounds);
        for (case, costs) in cases.iter().zip(&mut costs) {
            // Each time anew: the processor's pace changes within a round.
            let nothing = f64::from(testrun::repeat(empty.as_fd(), &frame(), plan.repeat)?.1);
            let cost = bench.run(case, plan).with_context(|| format!("running '{}: {}'", case.group, case.subject))?;
            costs.push(cost - nothing);
        }
        bench.kernel.clear_flows()?;
        for case in &cases {
            case.prepare(&bench.kernel)?;
        }
    }
    for (case, samples) in cases.iter().zip(costs) {
        section.series.push(Series { bar: case.bar, ..series(case.group, &case.subject, samples) });
    }
    straight::measure(plan, progress, empty.as_fd(), &mut section)?;
    measure_scale(plan, progress, empty.as_fd(), &mut section)?;
    Ok(section)
}

/// First packets to ever more services. Each size has programs and maps of its own, all at once, so that rounds can take turns.
fn measure_scale(plan: &Plan, progress: &Progress, empty: BorrowedFd<'_>, section: &mut Section) -> Result<()> {
    let mut sizes = Vec::new();
    for services in &plan.scale {
        progress.say(format!("filling the maps with {services} services"));
        let world = world::chain(World::new(), world::Chain::UdpV4, *services);
        sizes.push((*services, load(&world)?, Vec::new()));
    }
    let calls = u32::from(plan.ports) * 50;
    for round in 0..plan.rounds {
        progress.step(round, plan.rounds);
        let mut nothing = Vec::new();
        for _ in 0..calls {
            nothing.push(f64::from(testrun::repeat(empty, &frame(), STEPS)?.1));
        }
        let nothing = median(&nothing).context("no samples")?;
        for (services, kernel, samples) in &mut sizes {
            let mut costs = Vec::new();
            let mut place = 0x9e37_79b9_u32.wrapping_mul(round as u32 + 1);
            for call in 0..calls {
                place = place.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let start = ((u64::from(place) * u64::from(*services - STEPS + 1)) >> 32) as u32;
                let port = 1_024 + (call % 60_000) as u16;
                costs.push(cases::first_packets(kernel, world::Chain::UdpV4, start, port, STEPS)?);
            }
            samples.push(median(&costs).context("no samples")? - nothing);
            kernel.clear_flows()?;
        }
    }
    for (services, _, samples) in sizes {
        let group = "first UDP packet, any of N services, caches cold";
        let x = Some(f64::from(services));
        section.series.push(Series { x, ..series(group, &format!("{services} services"), samples) });
    }
    Ok(())
}

fn series(group: &str, subject: &str, samples: Vec<f64>) -> Series {
    Series {
        group: group.to_owned(),
        subject: subject.to_owned(),
        metric: "time per packet".to_owned(),
        unit: "ns".to_owned(),
        better: Better::Lower,
        x: None,
        samples,
        ratios: Vec::new(),
        bar: None,
    }
}

fn load(world: &World) -> Result<Kernel> {
    load_as(world, false)
}

fn load_as(world: &World, direct: bool) -> Result<Kernel> {
    let mut kernel = Kernel::load_as(&object_path(), &CAPACITIES, direct)?;
    world.changes().iter().try_for_each(|change| kernel.write(change))?;
    Ok(kernel)
}

fn frame() -> Vec<u8> {
    udp("192.0.2.1:1", "192.0.2.2:1").bytes(Checksums::Complete)
}

/// The mean over fresh packets with few runs each.
fn few(program: BorrowedFd<'_>, bytes: &[u8], repeat: u32) -> Result<f64> {
    let calls = (repeat / cases::FEW).max(1);
    let mut total = 0.0;
    for _ in 0..calls {
        // The kernel cuts the fraction of a nanosecond off.
        total += f64::from(testrun::repeat(program, bytes, cases::FEW)?.1) + 0.5;
    }
    Ok(total / f64::from(calls))
}

struct Bench {
    kernel: Kernel,
    /// Source ports used up, by case.
    port: HashMap<String, u16>,
}

impl Bench {
    /// Nanoseconds per packet, the empty program's included.
    fn run(&mut self, case: &Case, plan: &Plan) -> Result<f64> {
        match &case.kind {
            Kind::Same(bytes) => Ok(f64::from(testrun::repeat(self.kernel.program(case.hook), bytes, plan.repeat)?.1)),
            Kind::Few(bytes) => few(self.kernel.program(case.hook), bytes, plan.repeat),
            Kind::First(chain) => {
                let port = self.port.entry(case.subject.clone()).or_insert(1_024);
                let mut total = 0.0;
                for _ in 0..plan.ports {
                    *port = if *port < 60_000 { *port + 1 } else { 1_024 };
                    total += cases::first_packets(&self.kernel, *chain, 0, *port, ORDINARY)?;
                }
                Ok(total / f64::from(plan.ports))
            }
        }
    }
}

/// This thread on one CPU, until dropped.
struct OneCpu(CpuSet);

impl OneCpu {
    fn new() -> Result<Self> {
        let all = sched_getaffinity(None).context("cannot ask for the CPUs")?;
        let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| all.is_set(*cpu)).context("no CPU")?;
        let mut one = CpuSet::new();
        one.set(last);
        sched_setaffinity(None, &one).context("cannot stay on one CPU")?;
        Ok(Self(all))
    }
}

impl Drop for OneCpu {
    fn drop(&mut self) {
        // Whoever measures next would only be slower.
        let _ = sched_setaffinity(None, &self.0);
    }
}
