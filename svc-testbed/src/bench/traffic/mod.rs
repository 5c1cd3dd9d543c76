//! Measurements of traffic: what is run, on which path, in which order. In each round every path has its turn, beginning with
//! another one each time, so that whatever the machine does meanwhile falls on all. Neighbours: one file for each kind of
//! traffic; `paths` has the machines.

mod iperf;
mod probes;
mod program_time;
mod wrk;

use anyhow::{Context, Result};

use super::{
    paths::{Cluster, Path, Place, Target, Translator, cluster::available},
    progress::Progress,
    results::{Better, Section, Series},
    statistics::paired_ratios,
};

/// One number of a measurement.
pub struct Metric {
    pub name: &'static str,
    pub unit: &'static str,
    pub better: Better,
}

const fn higher(name: &'static str, unit: &'static str) -> Metric {
    Metric { name, unit, better: Better::Higher }
}

const fn lower(name: &'static str, unit: &'static str) -> Metric {
    Metric { name, unit, better: Better::Lower }
}

pub struct Measurement {
    pub name: &'static str,
    pub title: &'static str,
    metrics: &'static [Metric],
    /// One sample of each metric, in about so many seconds.
    run: fn(&Target<'_>, u32) -> Result<Vec<f64>>,
    note: &'static str,
}

pub const MEASUREMENTS: [Measurement; 8] = [
    Measurement {
        name: "throughput-1",
        title: "TCP throughput, 1 stream",
        metrics: &[higher("throughput", "Gbit/s")],
        run: |target, seconds| iperf::throughput(target, seconds, 1),
        note: "iperf3, what the receiver got",
    },
    Measurement {
        name: "throughput-4",
        title: "TCP throughput, 4 streams",
        metrics: &[higher("throughput", "Gbit/s")],
        run: |target, seconds| iperf::throughput(target, seconds, 4),
        note: "iperf3, what the receiver got",
    },
    Measurement {
        name: "requests",
        title: "HTTP requests over open connections",
        metrics: &[higher("requests", "/s"), lower("p50", "µs"), lower("p99", "µs")],
        run: |target, seconds| wrk::requests(target, seconds, true),
        note: "wrk, one thread, 16 connections; nginx, one worker, answers of two bytes",
    },
    Measurement {
        name: "connections",
        title: "HTTP requests, each over a connection of its own",
        metrics: &[higher("connections", "/s"), lower("p50", "µs"), lower("p99", "µs")],
        run: |target, seconds| wrk::requests(target, seconds, false),
        note: "wrk as above with Connection: close; tcp_max_tw_buckets=0 in the pods, so that TIME_WAIT is not what is measured",
    },
    Measurement {
        name: "tcp-ping-pong",
        title: "One byte there and back, TCP",
        metrics: &[lower("p50", "µs"), lower("p99", "µs")],
        run: |target, seconds| probes::exchanges(target, seconds, "tcp-ping-pong").map(probes::times),
        note: "one connection, one thread on each side, blocking sockets",
    },
    Measurement {
        name: "udp-ping-pong",
        title: "One datagram there and back, UDP",
        metrics: &[lower("p50", "µs"), lower("p99", "µs")],
        run: |target, seconds| probes::exchanges(target, seconds, "udp-ping-pong").map(probes::times),
        note: "one connected socket, one thread on each side, 32 bytes",
    },
    Measurement {
        name: "udp-exchange",
        title: "One datagram there and back, each from a new socket",
        metrics: &[higher("exchanges", "/s"), lower("p50", "µs"), lower("p99", "µs")],
        run: |target, seconds| probes::exchanges(target, seconds, "udp-exchange").map(probes::rate_and_times),
        note: "socket, connect, send, receive, close: a new connection for the dataplane each time, as a resolver makes them",
    },
    Measurement {
        name: "udp-cpu",
        title: "CPU time for a datagram",
        metrics: &[lower("CPU per datagram", "ns")],
        run: probes::cpu_per_datagram,
        note: "64 bytes at a fixed rate; all CPUs' time that was not idle (/proc/stat), sender and receiver included, by datagrams \
               received. What else runs on the machine counts, too",
    },
];

/// Name of the measurement that looks at programs instead of paths.
pub const PROGRAM_TIME: &str = program_time::NAME;

pub struct Plan {
    pub rounds: usize,
    /// Of each sample.
    pub seconds: u32,
    /// Numbers of Services, in growing order, and where they are measured.
    pub sizes: Vec<(u32, Vec<Place>)>,
}

impl Plan {
    pub fn quick(services: Option<u32>) -> Self {
        let both = vec![Place::SameNode, Place::OtherNode];
        Self { rounds: 2, seconds: 1, sizes: vec![(services.unwrap_or(1_000), both)] }
    }

    pub fn full(services: Option<u32>) -> Self {
        let both = vec![Place::SameNode, Place::OtherNode];
        let most = services.unwrap_or(10_000);
        let smaller = [(1, both.clone()), (1_000, vec![Place::SameNode])];
        let sizes = smaller.into_iter().filter(|(size, _)| *size < most).chain([(most, both)]).collect();
        Self { rounds: 5, seconds: 1, sizes }
    }
}

pub fn measure(plan: &Plan, chosen: &[&'static str], progress: &Progress) -> Result<Vec<Section>> {
    let (paths, left_out) = available(&Path::ALL)?;
    let measurements: Vec<&Measurement> = MEASUREMENTS.iter().filter(|one| chosen.contains(&one.name)).collect();
    let mut sections: Vec<Section> = measurements
        .iter()
        .map(|measurement| {
            let mut section = Section::new(measurement.name, measurement.title);
            section.notes = left_out.clone();
            section.note(measurement.note);
            section
        })
        .collect();
    let mut programs = program_time::section();
    progress.stage("traffic");
    let mut cluster = Cluster::build(&paths, progress)?;
    for (services, places) in &plan.sizes {
        progress.stage("traffic");
        cluster.set_services(*services, progress)?;
        for place in places {
            let group = format!("{}, {services} services", place.title());
            for (measurement, section) in measurements.iter().zip(&mut sections) {
                progress.stage(format!("{}, {group}", measurement.name));
                compare(&cluster, measurement, *place, &group, plan, progress, section);
            }
            if chosen.contains(&PROGRAM_TIME) {
                progress.stage(format!("{PROGRAM_TIME}, {group}"));
                program_time::measure(&cluster, *place, &group, plan.seconds, &mut programs);
            }
        }
    }
    if chosen.contains(&PROGRAM_TIME) {
        sections.push(programs);
    }
    Ok(sections)
}

/// All rounds of one measurement over all paths.
fn compare(
    cluster: &Cluster,
    measurement: &Measurement,
    place: Place,
    group: &str,
    plan: &Plan,
    progress: &Progress,
    section: &mut Section,
) {
    let paths = cluster.paths();
    // By path, then round: the sample of each metric, if it could be taken.
    let mut taken: Vec<Vec<Option<Vec<f64>>>> = vec![Vec::new(); paths.len()];
    for round in 0..plan.rounds {
        progress.step(round, plan.rounds);
        for turn in 0..paths.len() {
            let number = (turn + round) % paths.len();
            let target = cluster.target(paths[number], place);
            let sample =
                (measurement.run)(&target, plan.seconds).with_context(|| format!("{group}, {}", paths[number].title()));
            if let Err(error) = &sample {
                section.note(format!("a sample is missing: {error:#}"));
            }
            taken[number].push(sample.ok());
        }
    }
    for (metric_number, metric) in measurement.metrics.iter().enumerate() {
        let of = |path: usize| -> Vec<Option<f64>> {
            taken[path].iter().map(|sample| sample.as_ref()?.get(metric_number).copied()).collect()
        };
        let direct = paths.iter().position(|path| *path == Path::Direct).map(of);
        for (number, path) in paths.iter().enumerate() {
            let samples = of(number);
            let ratios = direct.as_ref().map(|direct| paired_ratios(&samples, direct)).unwrap_or_default();
            section.series.push(Series {
                group: group.to_owned(),
                subject: path.title().to_owned(),
                metric: metric.name.to_owned(),
                unit: metric.unit.to_owned(),
                better: metric.better,
                x: None,
                samples: samples.into_iter().flatten().collect(),
                ratios,
                bar: bar(*path, place, measurement.name, metric.name),
            });
        }
    }
}

/// What the project asks of a path, as a multiple of the direct path.
fn bar(path: Path, place: Place, measurement: &str, metric: &str) -> Option<f64> {
    let column = match (measurement, metric) {
        ("requests", "requests") => 0,
        ("connections", "connections") => 1,
        ("tcp-ping-pong", "p50") => 2,
        ("udp-cpu", _) => 3,
        ("throughput-1" | "throughput-4", _) => 4,
        _ => return None,
    };
    let Translator::Agent { forwarding, .. } = path.translator() else { return None };
    let row = match (path, place) {
        (_, Place::OtherNode) if forwarding == "direct" => [1.0, 1.02, 0.95, 0.92, 1.0],
        (_, Place::OtherNode) => return None,
        (Path::HooksDirect, _) => [1.15, 1.12, 0.85, 0.85, 1.0],
        (Path::TcDirect, _) => [1.10, 1.08, 0.88, 0.88, 1.0],
        (Path::HooksStack, _) => [0.99, 1.0, 1.0, 1.0, 1.0],
        (Path::TcStack, _) => [0.97, 0.96, 1.0, 1.05, 0.97],
        _ => return None,
    };
    row.get(column).copied()
}

/// Standard output of a program that must succeed.
fn output(mut command: std::process::Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("cannot start {name}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        let said = if error.trim().is_empty() { text.trim() } else { error.trim() };
        anyhow::bail!("{name} failed ({}): {said}", output.status);
    }
    Ok(text)
}
