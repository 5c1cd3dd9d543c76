//! Endpoint changes at a steady rate, and when each became visible in the kernel.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use svc_common::Publication;

use super::{kernel::Published, objects};
use crate::{apiserver::ApiServer, bench::statistics::percentile};

/// A change that is not visible after this long is lost.
const LOST: Duration = Duration::from_secs(5);
/// Between looks at the maps: a core must be left for the agent.
const LOOK: Duration = Duration::from_micros(40);

/// Milliseconds from event to visibility.
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub changes: usize,
}

struct Waiting {
    index: u32,
    before: Publication,
    since: Instant,
}

/// `generation` counts the changes each service has seen before.
pub fn run(
    server: &ApiServer,
    published: &Published,
    services: u32,
    rate: u32,
    duration: Duration,
    generation: u32,
) -> Result<Latency> {
    let total = (duration.as_secs_f64() * f64::from(rate)) as u32;
    ensure!(total <= services, "{total} changes are more than {services} services: one would change twice");
    let indexes = (0..total).map(|number| published.index(objects::address(number), objects::PORT));
    let indexes = indexes.collect::<Result<Vec<u32>>>()?;
    let (mut waiting, mut times) = (Vec::<Waiting>::new(), Vec::new());
    let start = Instant::now();
    let mut next = 0;
    while next < total || !waiting.is_empty() {
        while next < total && start.elapsed() >= Duration::from_secs(1) * next / rate {
            let index = *indexes.get(next as usize).context("more changes than services")?;
            let (before, object) = (published.word(index)?, objects::slice(next, generation + 1));
            waiting.push(Waiting { index, before, since: Instant::now() });
            server.apply(object);
            next += 1;
        }
        let mut still = Vec::new();
        for change in waiting {
            if published.word(change.index)? != change.before {
                times.push(change.since.elapsed().as_secs_f64() * 1e3);
            } else {
                ensure!(change.since.elapsed() < LOST, "a change was not visible after {LOST:?}");
                still.push(change);
            }
        }
        waiting = still;
        thread::sleep(LOOK);
    }
    Ok(Latency {
        p50: percentile(&times, 0.5).context("no change")?,
        p99: percentile(&times, 0.99).context("no change")?,
        changes: times.len(),
    })
}
