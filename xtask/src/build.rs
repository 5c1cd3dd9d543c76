//! `cargo xtask build`: one static `svc-agent` binary with the eBPF object inside. musl if this machine can build for it,
//! else glibc linked statically.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::LittleEndian;
use object::elf::{FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::packages;
use crate::toolchain::Toolchain;
use crate::{build_ebpf, process};

#[derive(clap::Args, Default)]
pub struct Options {
    /// Optimized, without debug information
    #[arg(long)]
    pub release: bool,
}

pub fn run(options: &Options) -> Result<()> {
    ensure(options.release).map(drop)
}

/// How the binary becomes independent of the system's libraries.
enum Linkage {
    Musl { target: String, compiler: PathBuf },
    Glibc { target: String, because: String },
}

/// Builds the static binary and returns its path.
pub fn ensure(release: bool) -> Result<PathBuf> {
    build_ebpf::ensure()?;
    let linkage = choose_linkage(&Toolchain::read()?);
    let mut cargo = process::cargo();
    cargo.args(["build", "--package", "svc-agent", "--bin", "svc-agent", "--target-dir"]).arg(process::target());
    if release {
        cargo.arg("--release");
    }
    let target = match &linkage {
        Linkage::Musl { target, compiler } => {
            println!("linking statically against musl ({target})");
            // ring compiles C; its build script looks for the compiler of the target.
            let variable = format!("CC_{}", target.replace('-', "_"));
            if env::var_os(&variable).is_none() {
                cargo.env(variable, compiler);
            }
            target
        }
        Linkage::Glibc { target, because } => {
            println!("linking statically against glibc ({target}), because {because}");
            cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static").env_remove("RUSTFLAGS");
            target
        }
    };
    process::run(cargo.arg("--target").arg(target))?;
    let profile = if release { "release" } else { "debug" };
    let binary = process::target().join(target).join(profile).join("svc-agent");
    let size = check_static(&binary)?;
    println!("static binary: {} ({:.1} MiB)", binary.display(), size as f64 / f64::from(1 << 20));
    Ok(binary)
}

fn choose_linkage(toolchain: &Toolchain) -> Linkage {
    let arch = toolchain.host.split('-').next().unwrap_or_default();
    let glibc = |because: String| Linkage::Glibc { target: toolchain.host.clone(), because };
    if toolchain.host.ends_with("-musl") {
        return Linkage::Musl { target: toolchain.host.clone(), compiler: "cc".into() };
    }
    let target = format!("{arch}-unknown-linux-musl");
    if let Err(error) = toolchain.ensure_target(&target) {
        return glibc(format!("the standard library for {target} cannot be had: {error:#}"));
    }
    let prefixed = format!("{arch}-linux-musl-gcc");
    let compiler = || process::find_on_path(&prefixed).or_else(|| process::find_on_path("musl-gcc"));
    let found = compiler().or_else(|| {
        packages::ensure(&[("musl-gcc", "musl-tools")]).ok()?;
        compiler()
    });
    match found {
        Some(compiler) => Linkage::Musl { target, compiler },
        None => glibc("there is no musl-gcc for the C parts (Debian: apt-get install musl-tools)".into()),
    }
}

/// A static binary names no interpreter. Returns the file's size.
fn check_static(binary: &Path) -> Result<u64> {
    let data = fs::read(binary).with_context(|| format!("cargo left no binary at {}", binary.display()))?;
    let interpreter = has_interpreter(&data).with_context(|| format!("{} is no ELF file", binary.display()))?;
    if interpreter {
        bail!("{} needs a dynamic loader; it must run in an empty image", binary.display());
    }
    Ok(data.len() as u64)
}

fn has_interpreter(data: &[u8]) -> object::Result<bool> {
    let header = FileHeader64::<LittleEndian>::parse(data)?;
    let endian = header.endian()?;
    Ok(header.program_headers(endian, data)?.iter().any(|segment| segment.p_type(endian) == PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_binary_is_recognized() {
        // The test binary itself: glibc hosts link dynamically by default.
        let own = fs::read(env::current_exe().unwrap()).unwrap();
        assert_eq!(has_interpreter(&own).unwrap(), cfg!(not(target_feature = "crt-static")));
        assert!(has_interpreter(b"#!/bin/sh\n").is_err());
    }
}
