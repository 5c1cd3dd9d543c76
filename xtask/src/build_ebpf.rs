//! `cargo xtask build-ebpf`: compiles svc-ebpf for the BPF target and puts the object at target/bpf/svc-ebpf, where
//! build.rs of svc-agent finds it. Always optimized: the verifier would refuse anything else.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

use crate::bpf_linker::{self, BpfLinker, LINKER_VARIABLE};
use crate::process;
use crate::toolchain::Toolchain;

pub const OBJECT_VARIABLE: &str = "SVC_EBPF_OBJECT";

#[derive(clap::Args, Default)]
pub struct Options {
    /// Accepted for symmetry with `build`: the object is always optimized
    #[arg(long)]
    pub release: bool,
}

pub fn run(_options: &Options) -> Result<()> {
    ensure().map(drop)
}

/// Builds the object if anything changed and returns its path.
pub fn ensure() -> Result<PathBuf> {
    let object = process::target().join("bpf/svc-ebpf");
    if let Some(given) = env::var_os(OBJECT_VARIABLE) {
        let given = PathBuf::from(given);
        if !given.is_file() {
            bail!("{OBJECT_VARIABLE}={} is not a file", given.display());
        }
        println!("eBPF object given by {OBJECT_VARIABLE}: {}", given.display());
        return Ok(given);
    }
    let toolchain = Toolchain::read()?;
    toolchain.ensure_rust_src()?;
    let linker = bpf_linker::ensure(&toolchain)?;
    let target_directory = process::target().join("bpf-build");
    let mut build = cargo_for_bpf(&toolchain, &linker, "build", &target_directory);
    process::run(&mut build).with_context(|| {
        format!(
            "the eBPF object was linked with {} ({}); if that linker is for another LLVM than {}, set {LINKER_VARIABLE}",
            linker.path.display(),
            linker.origin,
            toolchain.llvm_major
        )
    })?;
    let built = target_directory.join(toolchain.bpf_target()).join("release/svc-ebpf");
    let state = if replace_if_changed(&built, &object)? { "built" } else { "unchanged" };
    let size = fs::metadata(&object).map(|metadata| metadata.len()).unwrap_or_default();
    println!("eBPF object {state}: {} ({} KiB)", object.display(), size / 1024);
    Ok(object)
}

/// `cargo build|clippy -p svc-ebpf` for the BPF target. It has a target directory of its own: other flags, and no waiting
/// for the lock of a cargo that builds the rest.
pub fn cargo_for_bpf(toolchain: &Toolchain, linker: &BpfLinker, action: &str, target_directory: &Path) -> Command {
    let flags = [
        format!("-Clinker={}", linker.path.display()),
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        format!("--cfg=bpf_target_arch=\"{}\"", toolchain.arch()),
    ];
    let mut cargo = process::cargo();
    cargo
        .args([action, "--package", "svc-ebpf", "--bins", "--release", "-Z", "build-std=core"])
        .args(["--target", toolchain.bpf_target()])
        .arg("--target-dir")
        .arg(target_directory)
        // build-std is unstable; the pinned toolchain makes it a known quantity.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("LD_LIBRARY_PATH", bpf_linker::library_path(toolchain))
        // bpf-linker optimizes the whole program and needs the debug information for BTF.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_STRIP", "none")
        .env_remove("RUSTFLAGS");
    cargo
}

/// Writes atomically, and only when the content differs: svc-agent is rebuilt when the file changes.
fn replace_if_changed(built: &Path, object: &Path) -> Result<bool> {
    let content = fs::read(built).with_context(|| format!("cargo left no object at {}", built.display()))?;
    let content = without_dwarf(&content).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(object).is_ok_and(|present| present == content) {
        return Ok(false);
    }
    let directory = object.parent().context("the object has no directory")?;
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let fresh = directory.join(format!(".svc-ebpf.{}", std::process::id()));
    fs::write(&fresh, content).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::rename(&fresh, object).with_context(|| format!("cannot write {}", object.display()))?;
    Ok(true)
}

/// The linker needs DWARF to make BTF of it; afterwards it is three quarters of a file that the agent carries around.
fn without_dwarf(object: &[u8]) -> object::build::Result<Vec<u8>> {
    let mut builder = Builder::read(object)?;
    for section in builder.sections.iter_mut() {
        section.delete =
            [".debug_", ".rel.debug_"].iter().any(|beginning| section.name.starts_with(beginning.as_bytes()));
    }
    builder.delete_orphans();
    // LLVM keeps all names in one table; the writer wants a table of its own for those of sections.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut content = Vec::new();
    builder.write(&mut content)?;
    Ok(content)
}
