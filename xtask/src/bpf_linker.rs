//! Finds a bpf-linker, or builds one against the libLLVM that ships with the Rust toolchain, cached in target/tools.
//! A linker of another LLVM could not read the bitcode this rustc writes.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process;
use crate::toolchain::Toolchain;

const VERSION: &str = "0.13.0";
/// Versions of this series take the same arguments.
const SERIES: &str = "0.13.";
pub const LINKER_VARIABLE: &str = "SVC_BPF_LINKER";

/// A linker that runs on this machine.
pub struct BpfLinker {
    pub path: PathBuf,
    /// Where it comes from, for messages.
    pub origin: &'static str,
}

pub fn ensure(toolchain: &Toolchain) -> Result<BpfLinker> {
    if let Some(given) = env::var_os(LINKER_VARIABLE) {
        let path = PathBuf::from(given);
        let version = read_version(&path, toolchain)
            .with_context(|| format!("{LINKER_VARIABLE}={} does not run", path.display()))?;
        if !version.starts_with(SERIES) {
            bail!("{LINKER_VARIABLE}={} is version {version}; {SERIES}x is needed", path.display());
        }
        return Ok(BpfLinker { path, origin: LINKER_VARIABLE });
    }
    let tools = process::target().join("tools");
    if let Some(path) = cached(&tools, toolchain) {
        return Ok(BpfLinker { path, origin: "target/tools" });
    }
    if let Some(path) = process::find_on_path("bpf-linker")
        && read_version(&path, toolchain).is_ok_and(|version| version.starts_with(SERIES))
    {
        return Ok(BpfLinker { path, origin: "PATH" });
    }
    let path = install(&tools, toolchain).with_context(|| {
        format!(
            "bpf-linker {VERSION} could not be built; by hand: install bpf-linker {SERIES}x for LLVM {} anywhere and set \
             {LINKER_VARIABLE} to its path, or set SVC_EBPF_OBJECT to an object built elsewhere",
            toolchain.llvm_major
        )
    })?;
    Ok(BpfLinker { path, origin: "target/tools" })
}

/// The cached linker, if it was built for this toolchain and still runs.
fn cached(tools: &Path, toolchain: &Toolchain) -> Option<PathBuf> {
    let path = tools.join("bin/bpf-linker");
    let stamp = fs::read_to_string(tools.join("bpf-linker.stamp")).ok()?;
    (stamp == stamp_text(toolchain) && read_version(&path, toolchain).ok()? == VERSION).then_some(path)
}

fn stamp_text(toolchain: &Toolchain) -> String {
    format!("bpf-linker {VERSION}\nrustc {} {}\nllvm {}\n", toolchain.release, toolchain.host, toolchain.llvm_major)
}

fn install(tools: &Path, toolchain: &Toolchain) -> Result<PathBuf> {
    println!("building bpf-linker {VERSION} for LLVM {} (once; about two minutes)", toolchain.llvm_major);
    let prefix = tools.join("llvm");
    link_libllvm(&prefix.join("lib"), &toolchain.libllvm()?)?;
    let build = tools.join("build");
    process::run(
        process::cargo()
            .args(["install", "bpf-linker", "--locked", "--force", "--no-default-features"])
            .arg(format!("--version=={VERSION}"))
            .arg(format!("--features=llvm-{}", toolchain.llvm_major))
            .arg("--root")
            .arg(tools)
            .arg("--target-dir")
            .arg(&build)
            .env("LLVM_PREFIX", &prefix)
            .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("CARGO_BUILD_TARGET"),
    )
    .context("`cargo install bpf-linker` needs a C compiler as linker and access to crates.io")?;
    let path = tools.join("bin/bpf-linker");
    let version = read_version(&path, toolchain).context("the bpf-linker just built does not run")?;
    if version != VERSION {
        bail!("{} says it is {version}, not {VERSION}", path.display());
    }
    fs::write(tools.join("bpf-linker.stamp"), stamp_text(toolchain)).context("cannot write the stamp of bpf-linker")?;
    fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))?;
    Ok(path)
}

/// Two names for the toolchain's library: the one the build looks for, and the one the loader wants at run time.
fn link_libllvm(directory: &Path, library: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let soname = library.file_name().context("libLLVM has no file name")?;
    for name in ["libLLVM.so".as_ref(), soname] {
        let link = directory.join(name);
        if link.symlink_metadata().is_ok() {
            fs::remove_file(&link).with_context(|| format!("cannot replace {}", link.display()))?;
        }
        symlink(library, &link).with_context(|| format!("cannot link {}", link.display()))?;
    }
    Ok(())
}

fn read_version(path: &Path, toolchain: &Toolchain) -> Result<String> {
    let mut command = process::command(path);
    command.arg("--version").env("LD_LIBRARY_PATH", library_path(toolchain));
    let text = process::read(&mut command)?;
    let version = text.split_whitespace().nth(1).context("bpf-linker --version prints no version")?;
    Ok(version.to_owned())
}

/// LD_LIBRARY_PATH with the toolchain's libraries first: the linker finds its libLLVM even after the workspace moved.
pub fn library_path(toolchain: &Toolchain) -> std::ffi::OsString {
    let mut path = toolchain.library_directory().into_os_string();
    if let Some(inherited) = env::var_os("LD_LIBRARY_PATH").filter(|inherited| !inherited.is_empty()) {
        path.push(":");
        path.push(inherited);
    }
    path
}
