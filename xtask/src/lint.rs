//! `cargo xtask lint`: formatting, clippy for both targets with warnings denied, documents, deploy files.

use anyhow::{Result, bail};

use crate::toolchain::Toolchain;
use crate::{bpf_linker, build_ebpf, deploy_check, docs_check, process};

pub fn run() -> Result<()> {
    process::run(process::cargo().args(["fmt", "--all", "--", "--check"]))?;

    // build.rs of svc-agent wants the object.
    build_ebpf::ensure()?;
    process::run(process::cargo().args(["clippy", "--all-targets", "--", "-D", "warnings"]))?;

    let toolchain = Toolchain::read()?;
    let linker = bpf_linker::ensure(&toolchain)?;
    let mut kernel_side =
        build_ebpf::cargo_for_bpf(&toolchain, &linker, "clippy", &process::target().join("bpf-build"));
    process::run(kernel_side.args(["--", "-D", "warnings"]))?;

    let mut findings = docs_check::findings()?;
    findings.extend(deploy_check::findings()?);
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings in documents and deploy files", findings.len());
    }
    println!("lint: clean");
    Ok(())
}
