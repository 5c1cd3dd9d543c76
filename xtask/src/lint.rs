//! `cargo xtask lint`: formatting, documents, deploy files, clippy for both targets with warnings denied. Reports
//! everything it finds, not only the first.

use anyhow::{Result, anyhow, bail};

use crate::toolchain::Toolchain;
use crate::{bpf_linker, build_ebpf, deploy_check, docs_check, process};

type Check = fn() -> Result<()>;

pub fn run() -> Result<()> {
    let checks: [(&str, Check); 5] = [
        ("formatting", formatting),
        ("documents", || none_of(docs_check::findings()?)),
        ("deploy files", || none_of(deploy_check::findings()?)),
        ("clippy", clippy),
        ("clippy for the kernel side", clippy_kernel_side),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        println!("\n==== {name}");
        if let Err(error) = check() {
            eprintln!("{error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("not clean: {}", failed.join(", "));
    }
    println!("\nlint: clean");
    Ok(())
}

fn formatting() -> Result<()> {
    process::run(process::cargo().args(["fmt", "--all", "--", "--check"]))
}

fn clippy() -> Result<()> {
    // build.rs of svc-agent wants the object.
    build_ebpf::ensure()?;
    process::run(process::cargo().args(["clippy", "--all-targets", "--keep-going", "--", "-D", "warnings"]))
}

fn clippy_kernel_side() -> Result<()> {
    let toolchain = Toolchain::read()?;
    toolchain.ensure_rust_src()?;
    let linker = bpf_linker::ensure(&toolchain)?;
    let mut cargo = build_ebpf::cargo_for_bpf(&toolchain, &linker, "clippy", &process::target().join("bpf-build"));
    process::run(cargo.args(["--", "-D", "warnings"]))
}

fn none_of(findings: Vec<String>) -> Result<()> {
    if findings.is_empty() { Ok(()) } else { Err(anyhow!(findings.join("\n"))) }
}
