//! `svc-testbed`, the program that runs labs: what each command built on it needs first, and how it is started. What a
//! command does, and what its arguments mean, is that program's business.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{build_ebpf, packages, process};

/// For what makes network namespaces and loads programs.
pub fn require_root(what: &str) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("{what} makes network namespaces and loads BPF programs: run it as root");
    }
    Ok(())
}

/// Installs and builds what a lab takes.
pub fn prepare(what: &str) -> Result<()> {
    require_root(what)?;
    packages::ensure(packages::LAB)?;
    build_ebpf::ensure()?;
    build()
}

/// The whole workspace, as the tests do: with one package selected cargo would choose other features of shared dependencies,
/// and compile again what the other has compiled.
pub fn build() -> Result<()> {
    process::run(process::cargo().args(["build", "--bins"]))
}

/// `svc-testbed COMMAND` as it was built last, where the user is: arguments may be paths relative to that.
pub fn program(profile: &str, command: impl AsRef<OsStr>) -> Command {
    let programs = process::target().join(profile);
    let mut lab = Command::new(programs.join("svc-testbed"));
    lab.arg(command).env("SVC_AGENT_BIN", programs.join("svc-agent"));
    lab
}
