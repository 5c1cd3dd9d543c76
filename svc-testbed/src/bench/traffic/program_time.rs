//! Run time of our programs under real traffic, as the kernel counts it: HTTP requests on each agent's path.

use super::{
    super::{
        paths::{Cluster, Place, ProgramTimes, Translator},
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
         counts as the program's",
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
            let measured = ProgramTimes::start().and_then(|times| {
                wrk::requests(&target, seconds, keep)?;
                times.finish()
            });
            match measured {
                Ok(times) => section.series.extend(times.into_iter().filter(|(_, _, runs)| *runs >= RUNS).map(
                    |(program, nanoseconds, _)| Series {
                        group: format!("{group}, {}, {traffic}", path.title()),
                        subject: program,
                        metric: "time per run".to_owned(),
                        unit: "ns".to_owned(),
                        better: Better::Lower,
                        x: None,
                        samples: vec![nanoseconds],
                        ratios: Vec::new(),
                        bar: None,
                    },
                )),
                Err(error) => section.note(format!("{group}, {}: {error:#}", path.title())),
            }
        }
    }
}
