//! The Rust toolchain of rust-toolchain.toml: where it is, which LLVM it has, and adding components to it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::process;

/// What `rustc` says about itself.
pub struct Toolchain {
    /// For example `x86_64-unknown-linux-gnu`.
    pub host: String,
    /// For example `1.95.0`.
    pub release: String,
    /// For example `22`.
    pub llvm_major: u32,
    pub sysroot: PathBuf,
}

impl Toolchain {
    pub fn read() -> Result<Self> {
        let about = process::read(process::command("rustc").arg("-vV")).context(
            "no usable rustc: install Rust with rustup (https://rustup.rs); rust-toolchain.toml names the version",
        )?;
        let field =
            |name: &str| about.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned);
        let llvm = field("LLVM version").context("rustc -vV names no LLVM version: it is not an LLVM based rustc")?;
        Ok(Self {
            host: field("host").context("rustc -vV names no host")?,
            release: field("release").context("rustc -vV names no release")?,
            llvm_major: llvm.split('.').next().and_then(|major| major.parse().ok()).unwrap_or_default(),
            sysroot: process::read(process::command("rustc").args(["--print", "sysroot"]))?.trim().into(),
        })
    }

    /// First part of the host triple, as aya's `bpf_target_arch` wants it.
    pub fn arch(&self) -> &str {
        match self.host.split('-').next().unwrap_or_default() {
            riscv if riscv.starts_with("riscv64") => "riscv64",
            arch => arch,
        }
    }

    /// Kernel programs run on this machine, so the object has its byte order.
    pub fn bpf_target(&self) -> &'static str {
        if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" }
    }

    pub fn library_directory(&self) -> PathBuf {
        self.sysroot.join("lib")
    }

    /// The toolchain's own libLLVM: the real file, not the aliases beside it.
    pub fn libllvm(&self) -> Result<PathBuf> {
        let directory = self.library_directory();
        let entries = fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
        let mut found = None;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let size = entry.metadata()?.len();
            let is_library = entry.file_type()?.is_file() && name.starts_with("libLLVM") && name.contains(".so");
            // Some toolchains put a linker script of a few bytes beside the library.
            if is_library && size > 1 << 20 {
                found = Some(entry.path());
            }
        }
        found.with_context(|| {
            format!(
                "the toolchain has no libLLVM*.so in {}: install it with rustup, not from a distribution",
                directory.display()
            )
        })
    }

    /// The source of `core`, which `-Z build-std` compiles for the BPF target.
    pub fn ensure_rust_src(&self) -> Result<()> {
        if self.sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
            return Ok(());
        }
        process::run(process::command("rustup").args(["component", "add", "rust-src"])).context(
            "the rust-src component is missing and could not be added; by hand: `rustup component add rust-src` in this \
             directory, or unpack rust-src of this version into the toolchain",
        )
    }

    /// Adds the standard library of another target.
    pub fn ensure_target(&self, target: &str) -> Result<()> {
        if self.sysroot.join("lib/rustlib").join(target).join("lib").is_dir() {
            return Ok(());
        }
        if process::find_on_path("rustup").is_none() {
            bail!("target {target} is not installed and there is no rustup to add it");
        }
        process::run(process::command("rustup").args(["target", "add", target]))
    }
}
