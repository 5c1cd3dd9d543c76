//! `cargo xtask conformance`: builds the agent and the lab's program, and lets the latter play the recorded Service behaviour
//! against the former. What the arguments mean is its business: `cargo xtask conformance --help`.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{build_ebpf, packages, process};

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Options {
    /// [DIR] [--scenario NAME..] [--mode tc|socket|both] [--verbose], and more: see --help
    #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub fn run(options: &Options) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the lab needs root: run this as root");
    }
    packages::ensure(packages::LAB)?;
    build_ebpf::ensure()?;
    // The whole workspace, as the tests do: with one package selected cargo would choose other features of shared dependencies.
    process::run(process::cargo().args(["build", "--bins"]))?;
    // Not from the workspace root: DIR is relative to where the user is.
    let programs = process::target().join("debug");
    let mut runner = Command::new(programs.join("svc-testbed"));
    runner.arg("conformance").args(&options.arguments).env("SVC_AGENT_BIN", programs.join("svc-agent"));
    process::run(&mut runner)
}
