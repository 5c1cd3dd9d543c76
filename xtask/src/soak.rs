//! `cargo xtask soak`: builds the agent and the lab's program, and lets the latter change a cluster at random under traffic. What
//! the arguments mean, and who judges, is its business: `cargo xtask soak --help`.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{build_ebpf, packages, process};

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Options {
    /// [--minutes 30] [--seed N] [--socket-lb all|host|off] [--restart-every SECONDS], and more: see --help
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
    let programs = process::target().join("debug");
    let mut soak = Command::new(programs.join("svc-testbed"));
    soak.arg("soak").args(&options.arguments).env("SVC_AGENT_BIN", programs.join("svc-agent"));
    process::run(&mut soak)
}
