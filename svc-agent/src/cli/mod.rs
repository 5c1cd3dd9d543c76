//! Command line: one file per subcommand. Errors end here: one line for people, exit code 1.

pub mod args;
mod audit;
mod cleanup;
pub mod get;
pub mod monitor;
mod owner;
mod run;
mod timeout;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use svc_common::ABI_VERSION;

/// Implements Kubernetes Services on this node with eBPF
#[derive(Parser, Debug)]
#[command(name = "svc-agent", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Follow the cluster and keep this node's datapath in step with it
    Run(Box<args::RunArgs>),
    /// Take the datapath off this node: links, filters and maps, with all flows
    Cleanup(args::CleanupArgs),
    /// List what the datapath holds
    Get(get::GetArgs),
    /// Check that what the datapath holds is consistent; names what is not
    Audit(audit::AuditArgs),
    /// Print connections as they are translated
    Monitor(monitor::MonitorArgs),
    /// Print the version of this program and of its maps
    Version,
}

pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => run::run(*args),
        Command::Cleanup(args) => cleanup::run(&args),
        Command::Get(args) => get::run(args),
        Command::Audit(args) => audit::run(&args),
        Command::Monitor(args) => monitor::run(args),
        Command::Version => {
            println!("svc-agent {} (maps v{ABI_VERSION})", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("svc-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
