//! Runs the scenarios of a corpus, each from its beginning to its end in one of several labs, and collects what each probe was
//! judged. Most of the time is spent waiting for packets that never come, so labs run side by side.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

use super::{
    corpus::{Corpus, Expected, Level, Probe, Program, Scenario, Step},
    dataplane::{Dataplane, Followed, Variant},
    judge::{Difference, Verdict, judge},
    probe::{Memory, send},
    schedule, scope,
    topology::{self, Topology},
};

pub struct Settings {
    /// Time the agent has to follow a change that does not show
    pub settle: Duration,
    /// Also run what the agent does not claim to do yet
    pub all: bool,
    pub verbose: bool,
    /// Labs for each variant
    pub labs: usize,
}

/// What became of a scenario in one variant.
pub struct Report {
    pub scenario: String,
    pub variant: Variant,
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

impl Failure {
    fn without_probe(what: &str, error: &anyhow::Error) -> Self {
        Self { step: String::new(), probe: what.to_owned(), differences: Vec::new(), seen: vec![format!("{error:#}")] }
    }
}

impl Report {
    fn new(scenario: &str, variant: Variant) -> Self {
        Self {
            scenario: scenario.to_owned(),
            variant,
            skipped: None,
            probes: 0,
            failures: Vec::new(),
            remarks: Vec::new(),
            elapsed: Duration::ZERO,
        }
    }

    pub fn summary(&self) -> String {
        match (&self.skipped, self.failures.len()) {
            (Some(feature), _) => format!("not yet: {feature}"),
            (None, 0) => "pass".to_owned(),
            (None, failed) => format!("FAIL {failed} of {} probes", self.probes),
        }
    }
}

/// Runs all scenarios in all variants.
pub fn run(corpus: &Corpus, variants: &[Variant], settings: &Settings) -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    let mut runnable = Vec::new();
    for scenario in &corpus.scenarios {
        match scope::not_yet(scenario).filter(|_| !settings.all) {
            Some(feature) => {
                reports.extend(variants.iter().map(|variant| Report {
                    skipped: Some(feature.to_owned()),
                    ..Report::new(&scenario.name, *variant)
                }))
            }
            None => runnable.push(scenario),
        }
    }
    for (name, error) in &corpus.broken {
        reports.extend(variants.iter().map(|variant| Report {
            failures: vec![Failure::without_probe("the scenario cannot be understood", error)],
            ..Report::new(name, *variant)
        }));
    }
    runnable.sort_by(|one, other| schedule::estimate(other).total_cmp(&schedule::estimate(one)));
    let queues: Vec<Queue<'_>> = variants.iter().map(|_| Mutex::new(runnable.iter().copied().collect())).collect();
    let outcomes: Vec<Result<Vec<Report>>> = thread::scope(|scope| {
        let labs = settings.labs.clamp(1, runnable.len().max(1));
        let places = (0..labs).flat_map(|_| variants.iter().zip(&queues));
        let running: Vec<_> =
            places.map(|(variant, queue)| scope.spawn(move || run_lab(corpus, *variant, queue, settings))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("the runner panicked"))))
            .collect()
    });
    for outcome in outcomes {
        reports.extend(outcome?);
    }
    Ok(reports)
}

/// Scenarios that no lab has taken yet.
type Queue<'a> = Mutex<VecDeque<&'a Scenario>>;

/// Runs what is left of the queue in a lab of its own.
fn run_lab(corpus: &Corpus, variant: Variant, queue: &Queue<'_>, settings: &Settings) -> Result<Vec<Report>> {
    let mut place: Option<(Topology, Dataplane)> = None;
    let mut reports = Vec::new();
    loop {
        // Before the lab is built: with nothing left to do there is no need for one.
        let Some(scenario) = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else {
            return Ok(reports);
        };
        let (topology, dataplane) = match &mut place {
            Some(place) => place,
            None => {
                let topology = Topology::build(topology::builder())?;
                let dataplane =
                    Dataplane::start(&topology, variant, &corpus.nodes).with_context(|| format!("mode {variant}"))?;
                place.insert((topology, dataplane))
            }
        };
        let report = run_scenario(scenario, variant, topology, dataplane, settings)?;
        if settings.verbose {
            let seconds = report.elapsed.as_secs_f64();
            eprintln!("{variant:<18} {:<36} {:<24} {seconds:>5.1} s", report.scenario, report.summary());
        }
        reports.push(report);
    }
}

fn run_scenario(
    scenario: &Scenario,
    variant: Variant,
    topology: &mut Topology,
    dataplane: &mut Dataplane,
    settings: &Settings,
) -> Result<Report> {
    let start = Instant::now();
    let mut report = Report::new(&scenario.name, variant);
    let mut memory = Memory::default();
    if let Err(error) = run_steps(scenario, topology, dataplane, &mut memory, settings, &mut report) {
        report.failures.push(Failure::without_probe("the scenario was broken off", &error));
    }
    memory.forget(topology)?;
    dataplane.reset()?;
    topology.lab().forget_paths()?;
    report.elapsed = start.elapsed();
    Ok(report)
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
        wait(step, dataplane, settings)?;
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

fn wait(step: &Step, dataplane: &mut Dataplane, settings: &Settings) -> Result<()> {
    let changes = step.dataplane.is_some() || !step.delete.is_empty() || !step.apply.is_empty();
    let followed = if changes { dataplane.follow(&step.apply) } else { Ok(Followed::Surely) };
    let settle = match followed {
        Ok(Followed::Surely) => Duration::ZERO,
        Ok(Followed::InTime) => settings.settle,
        // An agent that is not there any more is the better explanation.
        Err(error) => return dataplane.check().and(Err(error)),
    };
    thread::sleep(settle + Duration::from_secs_f64(step.wait));
    Ok(())
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
