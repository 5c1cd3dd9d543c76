//! In which order the scenarios run: those that wait longest first, so that the last lab does not wait alone. An estimate
//! from the scenario and what is expected of it; being wrong costs time, nothing else.

use super::{
    corpus::{Expected, Probe, Proto, Scenario},
    probe,
};

/// Seconds that the scenario will probably wait.
pub fn estimate(scenario: &Scenario) -> f64 {
    let steps = scenario.steps.iter().map(|(step, expected)| {
        let probes = step.probes.iter().filter_map(|probe| Some(of_probe(probe, expected.get(&probe.id)?)));
        step.wait + probes.sum::<f64>()
    });
    steps.sum()
}

fn of_probe(probe: &Probe, expected: &Expected) -> f64 {
    let pauses = probe.opts.interval.unwrap_or_default() * f64::from(probe.count);
    let silent = expected.variants.iter().any(|fields| {
        fields.get("fast_fail").is_some_and(|fast| fast == false)
            || fields.get("result").is_some_and(|result| result.to_string().contains("timeout"))
    });
    let one_after_the_other = probe.opts.serial || probe.opts.interval.is_some() || probe.proto == Proto::Icmp;
    let times = if one_after_the_other { f64::from(probe.count) } else { 1.0 };
    pauses + if silent { times * probe::timeout(probe).as_secs_f64() } else { 0.0 }
}
