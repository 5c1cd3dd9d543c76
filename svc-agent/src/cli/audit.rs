//! `svc-agent audit`: holds the pinned maps against the invariants of ARCHITECTURE.md. Works beside a running agent and
//! without one; changes nothing. Exit code 1 and a line for each finding if anything is wrong.

use std::io::{self, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use crate::audit::{Report, Settled};
use crate::observe::PinnedMaps;
use crate::observe::print::Format;
use crate::publish::GRACE;

/// Looks at maps that change, before what all of them show counts.
const LOOKS: usize = 4;
/// What rests between two uses, and the agent's tick behind it, are over by the next look.
const PAUSE: Duration = GRACE.saturating_add(Duration::from_millis(200));

#[derive(Args, Clone, Debug)]
pub struct AuditArgs {
    /// Mount point of the BPF file system the agent works with
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf", env = "SVC_AGENT_BPF_ROOT")]
    pub bpf_root: PathBuf,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

pub fn run(args: &AuditArgs) -> anyhow::Result<()> {
    let maps = PinnedMaps::open(&args.bpf_root)?;
    let mut settled = Settled::default();
    let mut looks = 1;
    while settled.add(maps.audit()?) && looks < LOOKS {
        looks += 1;
        thread::sleep(PAUSE);
    }
    let report = settled.into_report();
    show(&report, args.output, &mut io::stdout().lock()).context("cannot print")?;
    match report.violations.len() {
        0 => Ok(()),
        count => bail!(
            "{count} findings below {}: restarting the agent repairs what it wrote itself; please report them",
            args.bpf_root.display()
        ),
    }
}

fn show(report: &Report, format: Format, out: &mut dyn Write) -> io::Result<()> {
    if format == Format::Json {
        serde_json::to_writer_pretty(&mut *out, report)?;
        return writeln!(out);
    }
    for violation in &report.violations {
        writeln!(out, "{violation}")?;
    }
    writeln!(out, "{}", report.counts)
}
