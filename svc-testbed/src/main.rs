//! The lab's helper program: servers, clients, DNS and the janitor, one subcommand each. Started by the library inside a
//! machine's namespace and cgroup; `demo`, `enter`, `get` and `lookup` are for people.

use std::{net::ToSocketAddrs, os::unix::process::CommandExt, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use svc_testbed::{LabId, bench, client, conformance, demo, dns, janitor, lookup, serve, soak};

/// As curl says it.
const COULD_NOT_CONNECT: i32 = 7;

#[derive(Parser)]
#[command(name = "svc-testbed", about = "Servers, clients and DNS of the network lab")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// HTTP, UDP and bulk server
    Serve(serve::ServeArgs),
    /// DNS server over a directory of manifests
    Dns(dns::DnsArgs),
    /// Client that takes requests as JSON lines on stdin
    Client,
    /// Look a name up as nslookup does
    Lookup(lookup::LookupArgs),
    /// Fetch a page as curl does
    Get {
        /// host[:port][/path]; the name is looked up as any program does
        url: String,
        /// Seconds until it counts as failed
        #[arg(long, default_value_t = 3)]
        timeout: u64,
    },
    /// What a Service costs, beside the direct way and kube-proxy's rules
    Bench(bench::BenchArgs),
    /// Traffic of the benchmark
    #[command(subcommand, hide = true)]
    Probe(bench::probe::ProbeArgs),
    /// Play recorded Service behaviour against the agent
    Conformance(conformance::ConformanceArgs),
    /// Random changes under traffic of every kind, judged
    Soak(soak::SoakArgs),
    /// The main job as a story in the terminal
    Demo(demo::DemoArgs),
    /// A shell, or another program, on a machine of a lab that was kept
    Enter {
        lab: LabId,
        machine: String,
        #[arg(last = true)]
        program: Vec<String>,
    },
    /// End a lab that was kept
    Stop { lab: LabId },
    /// Remove a lab's remains once its owner is gone
    Janitor {
        #[arg(long)]
        owner: u32,
    },
    /// Remove the labs of dead processes
    Cleanup {
        /// Also those that were kept on purpose
        #[arg(long)]
        kept: bool,
    },
}

fn main() -> ExitCode {
    raise_descriptor_limit();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without the backtrace that Debug would add: the chain of causes is the message.
            eprintln!("svc-testbed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Serve(args) => block_on(serve::run(args)),
        Command::Dns(args) => block_on(dns::run(args)),
        Command::Client => block_on(client::run()),
        Command::Lookup(args) => lookup::run(&args),
        Command::Get { url, timeout } => get(&url, Duration::from_secs(timeout)),
        Command::Bench(args) => bench::run(&args),
        Command::Probe(args) => bench::probe::run(&args),
        Command::Conformance(args) => conformance::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Enter { lab, machine, program } => enter(lab, &machine, &program),
        Command::Stop { lab } => demo::stop(lab),
        Command::Janitor { owner } => janitor::watch(owner),
        Command::Cleanup { kept } => LabId::all()
            .into_iter()
            .filter(|lab| !lab.owner_is_alive() && (kept || !lab.is_kept()))
            .try_for_each(LabId::remove),
    }
}

/// A thousand connections are two thousand descriptors, and the usual limit is 1024.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Refused at worst; then many connections fail with words of their own.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn enter(lab: LabId, machine: &str, program: &[String]) -> Result<()> {
    let shell = ["bash".to_owned(), "--norc".to_owned()];
    let program = if program.is_empty() { shell.as_slice() } else { program };
    let mut command = lab.command(machine, &program[0])?;
    command.args(&program[1..]).env("PS1", format!("{machine}$ "));
    Err(command.exec()).with_context(|| format!("cannot run {}", program[0]))
}

fn get(url: &str, timeout: Duration) -> Result<()> {
    let url = url.strip_prefix("http://").unwrap_or(url);
    let (authority, path) = url.split_once('/').unwrap_or((url, ""));
    let mut addresses = match authority.to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(_) => (authority.trim_matches(['[', ']']), 80)
            .to_socket_addrs()
            .with_context(|| format!("could not resolve host: {authority}"))?,
    };
    let to = addresses.next().with_context(|| format!("{authority} has no address"))?;
    block_on(async {
        let report = client::fetch(&client::Get { timeout, ..client::Get::to(to, &format!("/{path}")) }).await;
        if let Some(error) = report.error {
            eprintln!("failed to connect to {authority} ({to}): {:?}: {error}", report.outcome);
            std::process::exit(COULD_NOT_CONNECT);
        }
        print!("{}", report.body);
        Ok(())
    })
}

fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
