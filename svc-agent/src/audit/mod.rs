//! Holds what the maps contain against the invariants of ARCHITECTURE.md and names every object that breaks one.
//! Only reads. Needs nothing but the maps: it works beside a running agent, after a crash, and in tests on plain memory.
//! Neighbours: [`published`] looks at what the agent writes, [`traffic`] at what the programs write.

mod published;
mod report;
mod traffic;

use std::collections::BTreeSet;

pub use report::{Counts, Report, Violation};
pub use traffic::Entries;

use crate::publish::{Maps, MapsError};

/// One look at all maps. An agent or program that writes meanwhile may show a mixture; [`Settled`] sorts that out.
pub fn audit(maps: &impl Maps, entries: &Entries) -> Result<Report, MapsError> {
    let mut report = Report::default();
    let published = published::check(maps, &mut report)?;
    traffic::check(&published, entries, &mut report);
    Ok(report)
}

/// Several looks at maps that change: only what every look finds is wrong with the maps, and not with the moment.
#[derive(Default)]
pub struct Settled {
    last: Option<Report>,
}

impl Settled {
    /// Adds a look; says whether another one could still clear something.
    pub fn add(&mut self, mut report: Report) -> bool {
        if let Some(last) = self.last.take() {
            let before: BTreeSet<Violation> = last.violations.into_iter().collect();
            report.violations.retain(|violation| before.contains(violation));
        }
        let doubtful = !report.violations.is_empty();
        self.last = Some(report);
        doubtful
    }

    pub fn into_report(self) -> Report {
        self.last.unwrap_or_default()
    }
}
