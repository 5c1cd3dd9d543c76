//! Runs the scenarios of a corpus one after the other in one lab, and collects what each probe was judged.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    corpus::{Corpus, Expected, Level, Probe, Program, Scenario, Step},
    dataplane::{Dataplane, Mode},
    judge::{Difference, Verdict, judge},
    probe::{Memory, send},
    scope,
    topology::{self, Topology},
};

pub struct Settings {
    /// Time the agent has to follow a change
    pub settle: Duration,
    /// Also run what the agent does not claim to do yet
    pub all: bool,
    pub verbose: bool,
}

/// What became of a scenario in one mode.
pub struct Report {
    pub scenario: String,
    pub mode: Mode,
    /// Why it was not run
    pub skipped: Option<String>,
    pub probes: usize,
    pub failures: Vec<Failure>,
    /// Of probes whose outcome the reference reached by accident, or that nobody promised yet
    pub remarks: Vec<Failure>,
    pub elapsed: Duration,
}

pub struct Failure {
    /// Number and note of the step
    pub step: String,
    /// The probe in words
    pub probe: String,
    pub differences: Vec<Difference>,
    /// The samples in words, or what went wrong
    pub seen: Vec<String>,
}

impl Report {
    pub fn summary(&self) -> String {
        match (&self.skipped, self.failures.len()) {
            (Some(feature), _) => format!("not yet: {feature}"),
            (None, 0) => "pass".to_owned(),
            (None, failed) => format!("FAIL {failed} of {} probes", self.probes),
        }
    }
}

/// Runs all scenarios in a lab of their own.
pub fn run(corpus: &Corpus, mode: Mode, settings: &Settings) -> Result<Vec<Report>> {
    let mut topology = Topology::build(topology::builder())?;
    let mut dataplane = Dataplane::start(&topology, mode, &corpus.nodes)?;
    let mut reports = Vec::new();
    for scenario in &corpus.scenarios {
        let start = Instant::now();
        let mut report = Report {
            scenario: scenario.name.clone(),
            mode,
            skipped: scope::not_yet(scenario).filter(|_| !settings.all).map(str::to_owned),
            probes: 0,
            failures: Vec::new(),
            remarks: Vec::new(),
            elapsed: Duration::ZERO,
        };
        if report.skipped.is_none() {
            let mut memory = Memory::default();
            let ran = run_steps(scenario, &mut topology, &mut dataplane, &mut memory, settings, &mut report);
            if let Err(error) = ran {
                report.failures.push(Failure {
                    step: String::new(),
                    probe: "the scenario was broken off".to_owned(),
                    differences: Vec::new(),
                    seen: vec![format!("{error:#}")],
                });
            }
            memory.forget(&mut topology)?;
            dataplane.reset()?;
            topology.lab().forget_paths()?;
        }
        report.elapsed = start.elapsed();
        if settings.verbose {
            let seconds = report.elapsed.as_secs_f64();
            eprintln!("{:<6} {:<36} {:<24} {seconds:>5.1} s", mode.name(), report.scenario, report.summary());
        }
        reports.push(report);
    }
    Ok(reports)
}

fn run_steps(
    scenario: &Scenario,
    topology: &mut Topology,
    dataplane: &mut Dataplane,
    memory: &mut Memory,
    settings: &Settings,
    report: &mut Report,
) -> Result<()> {
    for (number, (step, expected)) in scenario.steps.iter().enumerate() {
        if step.dataplane == Some(Program::Stop) {
            dataplane.program(Program::Stop)?;
        }
        dataplane.change(&step.delete, &step.apply)?;
        if step.dataplane == Some(Program::Start) {
            dataplane.program(Program::Start)?;
        }
        wait(step, settings);
        for probe in &step.probes {
            let Some(expected) = expected.get(&probe.id) else { continue };
            let failure = run_probe(probe, expected, topology, memory, settings.verbose)?;
            let binding = probe.level == Level::Must && (settings.all || !scope::is_node_port(probe));
            report.probes += usize::from(binding);
            let list = if binding { &mut report.failures } else { &mut report.remarks };
            list.extend(
                failure.map(|failure| Failure { step: format!("step {}, {}", number + 1, step.note), ..failure }),
            );
        }
        dataplane.check()?;
    }
    Ok(())
}

fn wait(step: &Step, settings: &Settings) {
    let changes = step.dataplane.is_some() || !step.delete.is_empty() || !step.apply.is_empty();
    let settle = if changes { settings.settle } else { Duration::ZERO };
    thread::sleep(settle + Duration::from_secs_f64(step.wait));
}

fn run_probe(
    probe: &Probe,
    expected: &Expected,
    topology: &mut Topology,
    memory: &mut Memory,
    verbose: bool,
) -> Result<Option<Failure>> {
    let observation = send(probe, topology, memory)?;
    if verbose {
        eprintln!("       {}: {}", in_words(probe), observation.tally.join(", "));
    }
    Ok(match judge(probe.any_failure, expected, &observation.fields) {
        Verdict::Pass => None,
        Verdict::Fail(differences) => {
            Some(Failure { step: String::new(), probe: in_words(probe), differences, seen: observation.tally })
        }
    })
}

fn in_words(probe: &Probe) -> String {
    let proto = format!("{:?}", probe.proto).to_lowercase();
    let to = if probe.port == 0 {
        probe.to.to_string()
    } else {
        std::net::SocketAddr::new(probe.to, probe.port).to_string()
    };
    let how = match &probe.held {
        Some(name) => format!("on the sockets held as {name}"),
        None => format!("{} x", probe.count),
    };
    format!("{}: from {} {proto} to {to}, {how}", probe.id, probe.from)
}
