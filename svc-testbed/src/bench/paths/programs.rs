//! What the kernel says about the run time of BPF programs under real traffic (kernel.bpf_stats_enabled). Reading the clock
//! around each run costs some 20 ns of its own, so this says where time goes, not how little it can be.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use anyhow::{Context, Result};
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};

/// Runs and nanoseconds of one program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    pub runs: u64,
    pub nanoseconds: u64,
}

impl Spent {
    pub fn per_run(self) -> f64 {
        self.nanoseconds as f64 / self.runs as f64
    }
}

pub struct ProgramTimes {
    before: BTreeMap<(u32, String), Spent>,
    _enabled: OwnedFd,
}

impl ProgramTimes {
    /// The kernel measures until the value is dropped.
    pub fn start() -> Result<Self> {
        let enabled = enable_stats(Stats::RunTime).context("the kernel does not measure BPF programs")?;
        Ok(Self { before: read()?, _enabled: enabled })
    }

    /// What each program that ran since has spent, by name.
    pub fn finish(self) -> Result<Vec<(String, Spent)>> {
        let mut spent: BTreeMap<String, Spent> = BTreeMap::new();
        for ((id, name), after) in read()? {
            let before = self.before.get(&(id, name.clone())).copied().unwrap_or_default();
            let sum = spent.entry(name).or_default();
            sum.runs += after.runs.saturating_sub(before.runs);
            sum.nanoseconds += after.nanoseconds.saturating_sub(before.nanoseconds);
        }
        Ok(spent.into_iter().filter(|(_, spent)| spent.runs > 0).collect())
    }
}

fn read() -> Result<BTreeMap<(u32, String), Spent>> {
    let mut all = BTreeMap::new();
    for program in loaded_programs() {
        // Others' programs may end while we look at them.
        let Ok(program) = program else { continue };
        let Some(name) = program.name_as_str().map(str::to_owned) else { continue };
        let Ok(handle) = program.fd() else { continue };
        let path = format!("/proc/self/fdinfo/{}", handle.as_fd().as_raw_fd());
        let facts = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let number = |field: &str| {
            let line = facts.lines().find_map(|line| line.strip_prefix(field))?;
            line.trim_start_matches(':').trim().parse().ok()
        };
        let spent = Spent {
            runs: number("run_cnt").unwrap_or_default(),
            nanoseconds: number("run_time_ns").unwrap_or_default(),
        };
        all.insert((program.id(), name), spent);
    }
    Ok(all)
}
