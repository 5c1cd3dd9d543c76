//! Project commands: `cargo xtask <command>`, one file per command.
//! Must not depend on `svc-agent`, so that it compiles before the eBPF object exists.

mod bench;
mod bpf_linker;
mod build;
mod build_ebpf;
mod conformance;
mod cost;
mod demo;
mod deploy_check;
mod docs_check;
mod image;
mod lab;
mod lint;
mod packages;
mod process;
mod soak;
mod test;
mod toolchain;

use std::process::ExitCode;

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
    /// Build one static svc-agent binary with the eBPF object inside
    Build(build::Options),
    /// A pod reaches a ClusterIP, as a story in the terminal
    Demo(demo::Options),
    /// Run all tests; as root for the levels that need a kernel
    Test(test::Options),
    /// Play recorded Service behaviour against the agent
    Conformance(conformance::Options),
    /// What a Service costs, beside the direct way and kube-proxy's rules
    Bench(bench::Options),
    /// Change a cluster at random under traffic, and judge
    Soak(soak::Options),
    /// Compare what packets, programs and changes cost with the recorded tables
    Cost(cost::Options),
    /// Formatting, clippy for both targets, documents, deploy files
    Lint,
    /// Build the container image, or its build context
    Image(image::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::BuildEbpf(options) => build_ebpf::run(&options),
        Command::Build(options) => build::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Conformance(options) => conformance::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Cost(options) => cost::run(&options),
        Command::Lint => lint::run(),
        Command::Image(options) => image::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
