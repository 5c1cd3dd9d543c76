//! Project commands: `cargo xtask <command>`, one file per command.
//! Must not depend on `svc-agent`, so that it compiles before the eBPF object exists.

mod bpf_linker;
mod build_ebpf;
mod process;
mod toolchain;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Project commands", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the eBPF object (target/bpf/svc-ebpf) and set up what that takes
    BuildEbpf(build_ebpf::Options),
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::BuildEbpf(options) => build_ebpf::run(&options),
    }
}
