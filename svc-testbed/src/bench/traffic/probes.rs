//! Traffic of the benchmark's own clients (`probe`).

use anyhow::{Context, Result, ensure};

use super::{
    super::{
        paths::{Offer, Target},
        probe::{Exchanges, Flood},
    },
    output,
};

/// Datagrams a second: enough for a CPU to be busy with, few enough for the slowest path.
const RATE: &str = "60000";
/// Of those sent; with fewer the number would not be about the path.
const ARRIVED: f64 = 0.97;

pub fn exchanges(target: &Target<'_>, seconds: u32, kind: &str) -> Result<Exchanges> {
    ask(target, seconds, kind, &[])
}

pub fn times(exchanges: Exchanges) -> Vec<f64> {
    vec![exchanges.p50, exchanges.p99]
}

pub fn rate_and_times(exchanges: Exchanges) -> Vec<f64> {
    vec![exchanges.count as f64 / exchanges.seconds, exchanges.p50, exchanges.p99]
}

pub fn cpu_per_datagram(target: &Target<'_>, seconds: u32) -> Result<Vec<f64>> {
    // The CPUs' time is counted in hundredths of a second.
    let flood: Flood = ask(target, seconds * 2, "udp-rate", &["--rate", RATE])?;
    let share = flood.received as f64 / flood.sent as f64;
    ensure!(share >= ARRIVED, "only {:.0} % of {} datagrams arrived", share * 100.0, flood.sent);
    Ok(vec![flood.busy * 1e9 / flood.received as f64])
}

fn ask<T: serde::de::DeserializeOwned>(target: &Target<'_>, seconds: u32, kind: &str, more: &[&str]) -> Result<T> {
    let address = target.address(Offer::Echo)?.to_string();
    let mut command = target.client()?.helper(&["probe", kind, &address, "--seconds", &seconds.to_string()])?;
    command.args(more);
    let said = output(command)?;
    serde_json::from_str(said.trim()).with_context(|| format!("the probe said {said}"))
}
