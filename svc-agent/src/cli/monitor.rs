//! `svc-agent monitor`: prints new connections, refusals and drops as they happen. Programs write events only while
//! this runs; it ends with Ctrl-C, and leaves nothing switched on.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use jiff::tz::TimeZone;
use rustix::time::{ClockId, clock_gettime};
use svc_common::Event;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use crate::datapath::events::{EventListener, RENEW_EVERY};
use crate::observe::events::{EventFilter, EventLine};
use crate::observe::label::{Filter, ServiceLabel, ServiceSelector, parse_network};
use crate::observe::pinned::find_maps;
use crate::observe::{MapReader, PinnedMaps, ReadError};

/// Index of an event that belongs to no service.
const NO_SERVICE: u32 = u32::MAX;

#[derive(Args, Clone, Debug)]
pub struct MonitorArgs {
    /// Mount point of the BPF file system the agent works with
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf", env = "SVC_AGENT_BPF_ROOT")]
    pub bpf_root: PathBuf,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: MonitorFormat,
    /// Only this service, or only this port of it
    #[arg(long, value_name = "NAMESPACE/NAME[:PORT]")]
    pub service: Option<ServiceSelector>,
    /// Only services in this namespace
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Only clients with this address or in this network
    #[arg(long, value_name = "IP[/BITS]", value_parser = parse_network)]
    pub client: Option<IpNet>,
    /// Only what is refused or dropped
    #[arg(long)]
    pub drops: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum MonitorFormat {
    /// One line for people
    #[default]
    Text,
    /// One JSON object in one line
    Json,
}

pub fn run(args: MonitorArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let stop = async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        watch(args, io::stdout(), |notice| eprintln!("{notice}"), stop).await
    })
}

/// Prints events to `out` until `stop` or until nobody reads `out`. The first of the notices says that events come.
pub async fn watch(
    args: MonitorArgs,
    out: impl Write,
    notice: impl Fn(fmt::Arguments<'_>),
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let maps = PinnedMaps::open(&args.bpf_root)?;
    let directory = find_maps(&args.bpf_root)?;
    let filter = EventFilter {
        rows: Filter { service: args.service, namespace: args.namespace, client: args.client },
        drops_only: args.drops,
    };
    let mut printer = Printer::new(&maps, filter, args.output, out);
    let mut renewal = tokio::time::interval(RENEW_EVERY);
    renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut listener = EventListener::open(&directory)?;
    listener.renew()?;
    notice(format_args!("listening for new connections ({}), Ctrl-C ends", directory.display()));

    let mut events = Vec::new();
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            _ = renewal.tick() => listener.renew()?,
            read = listener.read(&mut events) => {
                read?;
                match printer.print(&events) {
                    // The reader of a pipe has seen enough.
                    Err(PrintError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                    printed => printed.context("cannot print events")?,
                }
                events.clear();
                if listener.fell_behind() {
                    notice(format_args!("more connections than can be printed: lines may be missing"));
                }
            }
        }
    }
}

/// Why events could not be printed.
#[derive(thiserror::Error, Debug)]
pub enum PrintError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Output(#[from] io::Error),
}

/// Turns events into lines.
pub struct Printer<'a, W: Write> {
    reader: &'a dyn MapReader,
    filter: EventFilter,
    format: MonitorFormat,
    zone: TimeZone,
    out: io::BufWriter<W>,
}

impl<'a, W: Write> Printer<'a, W> {
    pub fn new(reader: &'a dyn MapReader, filter: EventFilter, format: MonitorFormat, out: W) -> Self {
        Self { reader, filter, format, zone: TimeZone::system(), out: io::BufWriter::new(out) }
    }

    /// Prints those the filter wants, and flushes.
    pub fn print(&mut self, events: &[Event]) -> Result<(), PrintError> {
        let boot = boot_time();
        for event in events {
            // Indexes are used again, so that a name is only right for now.
            let label = match event.service {
                NO_SERVICE => None,
                index => Some(ServiceLabel::new(index, self.reader.service_name(index)?.as_ref())),
            };
            if !self.filter.wants(event, label.as_ref()) {
                continue;
            }
            let line = EventLine::new(event, label, boot);
            match self.format {
                MonitorFormat::Text => writeln!(self.out, "{}", line.text(&self.zone))?,
                MonitorFormat::Json => {
                    serde_json::to_writer(&mut self.out, &line).map_err(io::Error::from)?;
                    writeln!(self.out)?;
                }
            }
        }
        Ok(self.out.flush()?)
    }
}

/// Wall-clock time at which CLOCK_MONOTONIC was zero. Read anew each time: the wall clock may be set.
fn boot_time() -> SystemTime {
    let monotonic = clock_gettime(ClockId::Monotonic);
    let since = Duration::new(
        u64::try_from(monotonic.tv_sec).unwrap_or_default(),
        u32::try_from(monotonic.tv_nsec).unwrap_or_default(),
    );
    SystemTime::now().checked_sub(since).unwrap_or(SystemTime::UNIX_EPOCH)
}
