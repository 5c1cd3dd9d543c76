//! Tells the crate where the eBPF object is. It never builds it: that takes another target, another toolchain setup and
//! a linker, which `cargo xtask build-ebpf` owns.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

const OBJECT_VARIABLE: &str = "SVC_EBPF_OBJECT";

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed={OBJECT_VARIABLE}");
    let object = match env::var_os(OBJECT_VARIABLE) {
        Some(given) => PathBuf::from(given),
        // The directory of this run: a build directory may be older than the tree it lies in.
        None => PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../target/bpf/svc-ebpf"),
    };
    println!("cargo::rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(object) if object.is_file() => {
            println!("cargo::rustc-env={OBJECT_VARIABLE}={}", object.display());
            ExitCode::SUCCESS
        }
        _ => {
            println!(
                "cargo::error=there is no eBPF object at {}: run `cargo xtask build-ebpf` first, or set {OBJECT_VARIABLE} \
                 to the absolute path of a ready one",
                object.display()
            );
            ExitCode::FAILURE
        }
    }
}
