//! Run time of our programs under real traffic, as the kernel counts it: HTTP requests on each agent's path.

use anyhow::Result;

use super::{
    super::{
        machine::busy_seconds,
        paths::{Cluster, Place, ProgramTimes, Spent, Target, Translator},
        results::{Better, Section, Series},
    },
    wrk,
};

pub const NAME: &str = "program-time";
/// A program that ran less often says nothing.
const RUNS: u64 = 1_000;

pub fn section() -> Section {
    let mut section = Section::new(NAME, "Run time of the programs under real traffic");
    section.note(
        "kernel.bpf_stats_enabled during HTTP requests; reading the clock adds some 20 ns to each run, and an interrupt during it \
         counts as the program's. The share is that of all CPU time that was not idle: what a path could gain if translation \
         cost nothing",
    );
    section
}

pub fn measure(cluster: &Cluster, place: Place, group: &str, seconds: u32, section: &mut Section) {
    for path in cluster.paths() {
        if !matches!(path.translator(), Translator::Agent { .. }) {
            continue;
        }
        let target = cluster.target(*path, place);
        for (traffic, keep) in [("open connections", true), ("a connection for each request", false)] {
            let group = format!("{group}, {}, {traffic}", path.title());
            match observe(&target, seconds, keep) {
                Ok(observed) => section.series.extend(observed.series(&group)),
                Err(error) => section.note(format!("{group}: {error:#}")),
            }
        }
    }
}

struct Observed {
    programs: Vec<(String, Spent)>,
    /// CPU time of everything on the machine.
    busy_seconds: f64,
}

fn observe(target: &Target<'_>, seconds: u32, keep: bool) -> Result<Observed> {
    let times = ProgramTimes::start()?;
    let before = busy_seconds()?;
    wrk::requests(target, seconds, keep)?;
    let busy_seconds = busy_seconds()? - before;
    Ok(Observed { programs: times.finish()?, busy_seconds })
}

impl Observed {
    fn series(&self, group: &str) -> Vec<Series> {
        let one = |subject: &str, metric: &str, unit: &str, sample| Series {
            group: group.to_owned(),
            subject: subject.to_owned(),
            metric: metric.to_owned(),
            unit: unit.to_owned(),
            better: Better::Lower,
            x: None,
            samples: vec![sample],
            ratios: Vec::new(),
            bar: None,
        };
        let often = self.programs.iter().filter(|(_, spent)| spent.runs >= RUNS);
        let mut series: Vec<Series> =
            often.map(|(program, spent)| one(program, "time per run", "ns", spent.per_run())).collect();
        let spent: u64 = self.programs.iter().map(|(_, spent)| spent.nanoseconds).sum();
        series.push(one("all programs", "share of CPU time", "%", spent as f64 / 1e7 / self.busy_seconds));
        series
    }
}
