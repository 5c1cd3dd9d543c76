//! `svc-agent get`: lists what the pinned maps hold. Works beside a running agent and without one; changes nothing.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use ipnet::IpNet;

use crate::observe::backends::backend_rows;
use crate::observe::drops::drop_rows;
use crate::observe::flows::flow_rows;
use crate::observe::label::{Filter, ServiceSelector, parse_network};
use crate::observe::print::{Format, Row, print};
use crate::observe::services::service_rows;
use crate::observe::{MapReader, PinnedMaps};

#[derive(Args, Clone, Debug)]
pub struct GetArgs {
    #[command(subcommand)]
    pub what: Resource,
    /// Mount point of the BPF file system the agent works with
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf", env = "SVC_AGENT_BPF_ROOT", global = true)]
    pub bpf_root: PathBuf,
    /// How to print
    #[arg(short, long, value_enum, default_value_t, global = true)]
    pub output: Format,
}

#[derive(Subcommand, Clone, Debug)]
pub enum Resource {
    /// Frontends, what happens to new connections, and the traffic on this node
    #[command(visible_alias = "svc")]
    Services(ServiceFilterArgs),
    /// Endpoints that connections are sent to, and those that only keep old ones
    Backends(ServiceFilterArgs),
    /// Connections that TC translates (socket hooks translate in connect() and keep none)
    Flows(FlowArgs),
    /// What was refused or dropped, and why
    Drops,
}

#[derive(Args, Clone, Debug, Default)]
pub struct ServiceFilterArgs {
    /// Only this service, or only this port of it
    #[arg(long, value_name = "NAMESPACE/NAME[:PORT]")]
    pub service: Option<ServiceSelector>,
    /// Only services in this namespace
    #[arg(short, long)]
    pub namespace: Option<String>,
}

#[derive(Args, Clone, Debug, Default)]
pub struct FlowArgs {
    #[command(flatten)]
    pub services: ServiceFilterArgs,
    /// Only clients with this address or in this network
    #[arg(long, value_name = "IP[/BITS]", value_parser = parse_network)]
    pub client: Option<IpNet>,
    /// Print at most so many
    #[arg(long, value_name = "COUNT")]
    pub limit: Option<usize>,
}

impl ServiceFilterArgs {
    fn filter(&self) -> Filter {
        Filter { service: self.service.clone(), namespace: self.namespace.clone(), client: None }
    }
}

impl FlowArgs {
    fn filter(&self) -> Filter {
        Filter { client: self.client, ..self.services.filter() }
    }
}

pub fn run(args: GetArgs) -> anyhow::Result<()> {
    let maps = PinnedMaps::open(&args.bpf_root)?;
    show(&maps, &args, &mut io::BufWriter::new(io::stdout().lock()))
}

/// Prints what `args` ask for.
pub fn show(reader: &dyn MapReader, args: &GetArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    match &args.what {
        Resource::Services(filter) => list(&service_rows(reader, &filter.filter())?, "services", args.output, out),
        Resource::Backends(filter) => list(&backend_rows(reader, &filter.filter())?, "backends", args.output, out),
        Resource::Flows(flows) => {
            let rows = flow_rows(reader, &flows.filter())?;
            let shown = &rows[..flows.limit.unwrap_or(rows.len()).min(rows.len())];
            if shown.len() < rows.len() {
                eprintln!("{} of {} flows", shown.len(), rows.len());
            }
            list(shown, "flows", args.output, out)
        }
        Resource::Drops => list(&drop_rows(reader)?, "drops", args.output, out),
    }
}

fn list<R: Row>(rows: &[R], what: &str, format: Format, out: &mut dyn Write) -> anyhow::Result<()> {
    if rows.is_empty() && format != Format::Json {
        eprintln!("no {what}");
        return Ok(());
    }
    match print(rows, format, out).and_then(|()| out.flush()) {
        // The reader of a pipe has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.context("cannot print"),
    }
}
