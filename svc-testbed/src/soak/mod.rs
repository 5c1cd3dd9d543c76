//! The soak: random changes of the cluster, clients of every kind, and a judge who knows what each of them may have met. A
//! change is written, the maps are held against the rules, clients are held against both, and in the end nothing may be left.
//! `state` has the rules, `change` the changes, `timeline` what was true when, `visitor` the clients, `judge` the judgement.

mod change;
mod judge;
mod random;
mod scene;
mod state;
mod timeline;
mod visitor;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

use self::{
    random::Random,
    scene::Scene,
    state::Service,
    timeline::Timeline,
    visitor::{Counts, Visitor},
};
use crate::{Helper, Shape};

/// Between two audits beside the traffic.
const AUDIT_EVERY: Duration = Duration::from_secs(20);
/// Soaks that last so long also wait until nothing is left of traffic.
const LONG_MINUTES: f64 = 10.0;
/// In the report of a failure.
const SHOWN_FLOWS: usize = 40;
const SHOWN_LINES: usize = 30;
/// Streams of random numbers beside those of the clients.
const CHANGES: u64 = 0;

#[derive(Clone, Debug, clap::Args)]
pub struct SoakArgs {
    /// How long
    #[arg(long, default_value_t = 30.0)]
    pub minutes: f64,
    /// Repeats the changes and choices of an earlier run; [default: of the clock]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Socket hooks of the agent: all, host or off
    #[arg(long, default_value = "all", value_parser = ["all", "host", "off"])]
    pub socket_lb: String,
    /// Services that change
    #[arg(long, default_value_t = 6)]
    pub services: u8,
    /// Seconds between two ends of the agent, half of them SIGKILL; 0: it lives on
    #[arg(long, default_value_t = 0)]
    pub restart_every: u64,
    /// Pods on a bridge instead of routes to each
    #[arg(long)]
    pub bridge: bool,
    /// Waits at the end, for minutes, until all traffic is forgotten; always after 10 minutes and more
    #[arg(long)]
    pub until_empty: bool,
}

/// Runs the soak and prints what happened. Fails with the last changes and the client's past when anything was wrong.
pub fn run(args: &SoakArgs) -> Result<()> {
    let helper = Helper::at(std::env::current_exe().context("cannot tell which program this is")?);
    soak(helper, args).map(|report| println!("{report}"))
}

/// As [`run`], for tests; returns the summary.
pub fn soak(helper: Helper, args: &SoakArgs) -> Result<String> {
    let seed = args.seed.unwrap_or_else(clock_seed);
    println!("soak: seed {seed}, {} minutes, --socket-lb={}", args.minutes, args.socket_lb);
    let shape = if args.bridge { Shape::Bridge } else { Shape::Routed };
    let mut scene = Scene::build(helper, shape, &args.socket_lb)?;
    let timeline = Timeline::new(scene.places()?);
    let result = act(args, seed, &mut scene, &timeline);
    result.map_err(|error| {
        let changes: String = timeline.last_changes().iter().map(|line| format!("  {line}\n")).collect();
        let shown = |what: &str| scene.agent.query(&["get", what, "-o", "wide"]).unwrap_or_default();
        let (flows, drops) = (shown("flows"), shown("drops"));
        let flows = flows.lines().take(SHOWN_FLOWS).collect::<Vec<_>>().join("\n");
        let log = scene.agent.log();
        let log: Vec<&str> = log.lines().collect();
        let log = log[log.len().saturating_sub(SHOWN_LINES)..].join("\n");
        anyhow!(
            "seed {seed}: {error:#}\nthe last changes, in seconds since the start:\n{changes}{drops}{flows}\n\
             the agent's log ends with:\n{log}"
        )
    })
}

fn act(args: &SoakArgs, seed: u64, scene: &mut Scene, timeline: &Timeline) -> Result<String> {
    let mut random = Random::new(seed, CHANGES);
    let mut services = Vec::new();
    for number in 0..args.services {
        let service = change::fresh(number, timeline.places(), &mut random);
        scene.write(timeline, number.into(), &service)?;
        services.push(service);
    }
    scene.wait_until_applied(timeline)?;
    let mut visitors = Vec::new();
    for (stream, identity) in (1..).zip(scene.identities(&args.socket_lb)?) {
        let client = scene.lab.machine(&identity.name)?.client()?;
        visitors.push(Visitor::new(identity, client, timeline, services.len(), Random::new(seed, stream)));
    }
    let stop = AtomicBool::new(false);
    let (counts, mut tally) = thread::scope(|scope| -> Result<_> {
        let threads: Vec<_> = visitors.into_iter().map(|visitor| scope.spawn(|| visitor.run(&stop))).collect();
        let changed = change_until(args, scene, timeline, &mut services, &mut random, &stop);
        stop.store(true, Ordering::Relaxed);
        let mut total = Counts::new();
        for thread in threads {
            for (what, count) in thread.join().map_err(|_| anyhow!("a client's thread panicked"))?? {
                *total.entry(what).or_default() += count;
            }
        }
        Ok((total, changed?))
    })?;
    scene.audit().context("at the end, Services still there")?;
    let mut left = scene.empty(timeline)?;
    if args.until_empty || args.minutes >= LONG_MINUTES {
        left = scene.wait_until_forgotten()?;
    }
    let descriptors = scene.check_descriptors()?;
    tally.audits += 2;
    let counts: Vec<String> = counts.iter().map(|(what, count)| format!("  {count:8} {what}")).collect();
    Ok(format!(
        "soak: fine. seed {seed}, {} changes, {} restarts, {} audits, {descriptors} descriptors\n{}\nleft by traffic: {left}",
        timeline.changes(),
        tally.restarts,
        tally.audits,
        counts.join("\n")
    ))
}

#[derive(Default)]
struct Tally {
    restarts: u32,
    audits: u32,
}

/// One change after the other, until the time is over or a client has stopped.
fn change_until(
    args: &SoakArgs,
    scene: &mut Scene,
    timeline: &Timeline,
    services: &mut [Service],
    random: &mut Random,
    stop: &AtomicBool,
) -> Result<Tally> {
    let mut tally = Tally::default();
    let end = Instant::now() + Duration::from_secs_f64(args.minutes * 60.0);
    let (mut next_audit, mut next_restart) = (Instant::now(), Instant::now());
    while Instant::now() < end && !stop.load(Ordering::Relaxed) {
        let restart = args.restart_every > 0 && Instant::now() >= next_restart;
        if restart {
            next_restart = Instant::now() + Duration::from_secs(args.restart_every);
            tally.restarts += 1;
            let gently = random.one_in(2);
            timeline.note(if gently { "the agent ends" } else { "the agent is killed" });
            if gently {
                scene.agent.stop()?
            } else {
                scene.agent.kill()?
            };
        }
        // Now and then several at once; while no agent runs, what it will find when it starts.
        let count = if random.one_in(8) { 1 + random.below(5) } else { 1 };
        for _ in 0..count {
            change_once(scene, timeline, services, random)?;
        }
        if restart {
            scene.agent.restart()?;
            timeline.note("the agent is ready again");
        }
        scene.wait_until_applied(timeline)?;
        if Instant::now() >= next_audit {
            next_audit = Instant::now() + AUDIT_EVERY;
            tally.audits += 1;
            scene.audit()?;
        }
        thread::sleep(Duration::from_millis(random.below(250) as u64));
    }
    Ok(tally)
}

fn change_once(scene: &mut Scene, timeline: &Timeline, services: &mut [Service], random: &mut Random) -> Result<()> {
    if random.one_in(25) {
        let mut node = scene.node.clone();
        let what = change::change_node(&mut node, random);
        timeline.note(&what);
        return scene.write_node(timeline, node);
    }
    let index = random.below(services.len());
    let what = change::change(&mut services[index], timeline.places(), random);
    timeline.note(&what);
    scene.write(timeline, index, &services[index])
}

fn clock_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs() % 1_000_000)
}
