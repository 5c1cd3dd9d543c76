//! `control-plane`: an agent that follows an API server with many Services: how soon a change is in the kernel, how long start and
//! restart take, what it needs. Neighbours: `crate::apiserver` serves, `kernel` looks at the maps.

mod churn;
mod kernel;
mod objects;

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use self::kernel::Published;
use super::{
    progress::Progress,
    results::{Better, Section, Series},
};
use crate::{AgentOptions, AgentProcess, Lab, NodeSpec, apiserver::ApiServer};

pub const NAME: &str = "control-plane";
const NODE: &str = "control";
const RATES: [u32; 2] = [100, 1_000];
/// Idle time over which the agent's CPU use is counted.
const IDLE: Duration = Duration::from_secs(2);

pub struct Plan {
    pub rounds: usize,
    pub sizes: Vec<u32>,
    /// Of each churn.
    pub seconds: u32,
}

impl Plan {
    pub fn quick(services: Option<u32>) -> Self {
        Self { rounds: 1, sizes: vec![0, services.unwrap_or(10_000)], seconds: 2 }
    }

    pub fn full(services: Option<u32>) -> Self {
        let mut sizes = vec![0, 1_000, 10_000];
        sizes.extend(services.filter(|services| !sizes.contains(services)));
        Self { rounds: 3, sizes, seconds: 5 }
    }
}

pub fn measure(plan: &Plan, progress: &Progress) -> Result<Section> {
    let mut section = Section::new(NAME, "The agent: changes, start, memory");
    section.note(format!(
        "{} endpoints for each Service. Start counts from the process's beginning to /healthz, lists from an API server on the \
         same machine included; publishing is the part from complete lists to the kernel, by the agent's own metric",
        objects::ENDPOINTS
    ));
    section
        .note("A change is visible when the service's publication word has changed; the API server shares the cores");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let _inside = runtime.enter();
    for services in &plan.sizes {
        progress.stage(format!("{NAME}, {services} services"));
        let mut samples = Samples::new(*services);
        for round in 0..plan.rounds {
            progress.step(round, plan.rounds);
            one_round(plan, *services, &mut samples).with_context(|| format!("{services} services"))?;
        }
        section.series.extend(samples.series);
    }
    Ok(section)
}

fn one_round(plan: &Plan, services: u32, samples: &mut Samples) -> Result<()> {
    let lab = Lab::builder().node(NodeSpec::new(NODE)).build()?;
    let node = lab.machine(NODE)?;
    let listener = node.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))??;
    listener.set_nonblocking(true)?;
    let server = ApiServer::on(tokio::net::TcpListener::from_std(listener)?)?;
    for number in 0..services {
        server.apply(objects::service(number));
        server.apply(objects::slice(number, 0));
    }
    server.forget_history();
    let kubeconfig = lab.state_dir().join("kubeconfig");
    fs::write(&kubeconfig, server.kubeconfig()).context("cannot write the kubeconfig")?;
    let options = AgentOptions::with_kubeconfig(&kubeconfig)?;

    let start = Instant::now();
    let mut agent = AgentProcess::start(&lab, NODE, options)?;
    samples.add("start, nothing pinned", "s", None, start.elapsed().as_secs_f64());
    samples.add("publishing at the first start", "s", start_bar(services), publishing(&agent.metrics()?)?);
    agent.kill()?;
    let start = Instant::now();
    agent.restart()?;
    samples.add("restart after SIGKILL", "s", None, start.elapsed().as_secs_f64());

    let pid = agent.pid().context("the agent does not run")?;
    let before = cpu_seconds(pid)?;
    std::thread::sleep(IDLE);
    let idle = (cpu_seconds(pid)? - before) / IDLE.as_secs_f64();
    samples.add("CPU while nothing changes", "% of a core", None, idle * 100.0);
    samples.add("resident memory", "MiB", memory_bar(services), resident_mebibytes(pid)?);

    let published = Published::open(agent.bpf_root())?;
    for (generation, rate) in RATES.into_iter().enumerate() {
        // A service changes once at most while one rate is measured.
        let seconds = plan.seconds.min(services / rate);
        if seconds == 0 {
            continue;
        }
        let before = cpu_seconds(pid)?;
        let duration = Duration::from_secs(seconds.into());
        let latency = churn::run(&server, &published, services, rate, duration, generation as u32)?;
        let spent = (cpu_seconds(pid)? - before) * 1e6 / latency.changes as f64;
        samples.add(&format!("{rate} changes/s, visible after, p50"), "ms", Some(1.0), latency.p50);
        samples.add(&format!("{rate} changes/s, visible after, p99"), "ms", Some(5.0), latency.p99);
        samples.add(&format!("{rate} changes/s, CPU for each"), "µs", None, spent);
    }
    samples.add("resident memory after the changes", "MiB", memory_bar(services), resident_mebibytes(pid)?);
    agent.stop()
}

/// Seconds to publish, as asked for at the sizes people ask about.
fn start_bar(services: u32) -> Option<f64> {
    match services {
        10_000 => Some(1.0),
        44_000 => Some(5.0),
        _ => None,
    }
}

fn memory_bar(services: u32) -> Option<f64> {
    match services {
        0 => Some(15.0),
        10_000 => Some(80.0),
        44_000 => Some(250.0),
        _ => None,
    }
}

/// One series for each thing that is measured, in the order they first appear.
struct Samples {
    services: u32,
    series: Vec<Series>,
}

impl Samples {
    fn new(services: u32) -> Self {
        Self { services, series: Vec::new() }
    }

    fn add(&mut self, what: &str, unit: &str, bar: Option<f64>, sample: f64) {
        if let Some(series) = self.series.iter_mut().find(|series| series.group == what) {
            series.samples.push(sample);
            return;
        }
        let metric = match unit {
            "ms" => "latency",
            "s" => "time",
            "MiB" => "memory",
            _ => "CPU",
        };
        self.series.push(Series {
            group: what.to_owned(),
            subject: format!("{} services", self.services),
            // Pictures have one scale for each metric.
            metric: format!("{metric} ({unit})"),
            unit: unit.to_owned(),
            better: Better::Lower,
            x: None,
            samples: vec![sample],
            ratios: Vec::new(),
            bar,
        });
    }
}

/// Seconds the agent says it took to write everything for the first time.
fn publishing(metrics: &str) -> Result<f64> {
    let name = "kubeproxy_sync_proxy_rules_duration_seconds_sum";
    let line = metrics.lines().find(|line| line.starts_with(name)).with_context(|| format!("no metric {name}"))?;
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).with_context(|| format!("cannot read {line}"))
}

fn resident_mebibytes(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes / 1024.0)
}

/// User and system time of the process so far.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The name may contain anything; fields are counted from behind it.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|value| value.parse::<f64>().ok()).unwrap_or_default();
    Ok((ticks(11) + ticks(12)) / rustix::param::clock_ticks_per_second() as f64)
}
