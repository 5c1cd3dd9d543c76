//! `cargo xtask bench`: installs what it takes, builds optimized programs and lets the lab's program measure. What is measured, and
//! what the arguments mean, is its business: `cargo xtask bench --help`.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{build_ebpf, packages, process};

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Options {
    /// [NAME..] [--quick] [--output DIR], and more: see --help
    #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub fn run(options: &Options) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the benchmark makes network namespaces and loads BPF programs: run it as root");
    }
    packages::ensure(packages::LAB)?;
    packages::ensure(packages::BENCH)?;
    let object = build_ebpf::ensure()?;
    // The programs alone run in the kernel, whatever the rest is built like: no reason to wait for an optimized build.
    let only_programs = options.arguments.iter().filter(|argument| !is_flag(argument)).eq(["programs"]);
    let profile = if only_programs { "debug" } else { "release" };
    let mut build = process::cargo();
    build.args(["build", "--bins"]);
    if !only_programs {
        build.arg("--release");
    }
    process::run(&mut build)?;
    let programs = process::target().join(profile);
    let mut bench = Command::new(programs.join("svc-testbed"));
    bench.arg("bench").arg("--output").arg(process::target().join("bench")).args(&options.arguments);
    bench.env("SVC_AGENT_BIN", programs.join("svc-agent")).env(build_ebpf::OBJECT_VARIABLE, object);
    process::run(&mut bench)
}

fn is_flag(argument: &OsString) -> bool {
    argument.to_string_lossy().starts_with('-')
}
