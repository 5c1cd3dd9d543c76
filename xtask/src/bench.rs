//! `cargo xtask bench`: installs what it takes, builds optimized programs and lets the lab's program measure. What is measured, and
//! what the arguments mean, is its business: `cargo xtask bench --help`.

use std::env;
use std::ffi::OsString;

use anyhow::Result;

use crate::{build, build_ebpf, lab, packages, process};

/// The agent that the lab's program starts.
const AGENT_VARIABLE: &str = "SVC_AGENT_BIN";

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Options {
    /// [NAME..] [--quick] [--output DIR], and more: see --help
    #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub fn run(options: &Options) -> Result<()> {
    lab::require_root("the benchmark")?;
    packages::ensure(packages::LAB)?;
    packages::ensure(packages::BENCH)?;
    let object = build_ebpf::ensure()?;
    // The programs alone run in the kernel, whatever the rest is built like: no reason to wait for an optimized build.
    let only_programs = options.arguments.iter().filter(|argument| !is_flag(argument)).eq(["programs"]);
    let profile = if only_programs { "debug" } else { "release" };
    let mut build = process::cargo();
    build.args(["build", "--bin", "svc-testbed"]);
    if !only_programs {
        build.arg("--release");
    }
    process::run(&mut build)?;
    let mut bench = lab::program(profile, "bench");
    if !only_programs && env::var_os(AGENT_VARIABLE).is_none() {
        // The binary that users run: its allocator is not that of this machine's libraries.
        bench.env(AGENT_VARIABLE, build::ensure(true)?);
    }
    bench.arg("--output").arg(process::target().join("bench")).args(&options.arguments);
    process::run(bench.env(build_ebpf::OBJECT_VARIABLE, object))
}

fn is_flag(argument: &OsString) -> bool {
    argument.to_string_lossy().starts_with('-')
}
