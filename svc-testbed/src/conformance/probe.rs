//! Sends the probes of a scenario and turns what the clients saw into outcomes. Remembers, until the scenario ends, the sockets
//! that are held and the backends of earlier probes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    corpus::{Fields, Probe, Proto},
    observe::{self, Context},
    topology::Topology,
};
use crate::{Client, Get, GetReport, Ping, Sample, Tcp, Udp, client::Again};

const TCP_TIMEOUT: Duration = Duration::from_millis(2500);
const UDP_TIMEOUT: Duration = Duration::from_secs(2);
const ICMP_TIMEOUT: Duration = Duration::from_millis(1500);
/// For TCP bodies of at least [`LARGE`] bytes.
const LARGE_TIMEOUT: Duration = Duration::from_secs(15);
const LARGE: usize = 100_000;

/// What one probe saw.
pub struct Observation {
    pub fields: Fields,
    /// The samples in words, counted
    pub tally: Vec<String>,
}

#[derive(Default)]
pub struct Memory {
    /// By machine and name: the backend of each held socket when it was opened, by the socket's own port
    held: BTreeMap<(String, String), BTreeMap<u16, String>>,
    /// By probe id, the latest of that id
    backends: BTreeMap<String, BTreeSet<String>>,
}

impl Memory {
    /// Closes what is held.
    pub fn forget(&mut self, topology: &mut Topology) -> Result<()> {
        for (machine, name) in std::mem::take(&mut self.held).into_keys() {
            topology.client(&machine)?.close(&name)?;
        }
        self.backends.clear();
        Ok(())
    }
}

pub fn send(probe: &Probe, topology: &mut Topology, memory: &mut Memory) -> Result<Observation> {
    if let Some(path) = &probe.opts.http {
        return send_http(probe, path, topology.client(&probe.from)?);
    }
    let client = topology.client(&probe.from)?;
    let samples = match (&probe.held, probe.proto) {
        (Some(name), _) if !memory.held.contains_key(&(probe.from.clone(), name.clone())) => {
            return Ok(none_held(name));
        }
        (Some(name), _) => client.again(again(probe, name))?,
        (None, Proto::Tcp) => client.tcp(tcp(probe))?,
        (None, Proto::Udp) => client.udp(udp(probe))?,
        (None, Proto::Icmp) => client.ping(Ping::to(probe.to).count(probe.count).timeout(timeout(probe)))?,
    };
    if let Some(name) = &probe.hold {
        remember_held(probe, name, &samples, memory);
    }
    let opened = probe.held.as_ref().and_then(|name| memory.held.get(&(probe.from.clone(), name.clone())));
    let other = match &probe.same_as {
        Some(id) => Some(memory.backends.get(id).with_context(|| format!("no probe {id} came before {}", probe.id))?),
        None => None,
    };
    let name_of = |client| topology.name_of(client);
    let fields = observe::outcome(probe, &samples, &Context { opened, other }, name_of);
    memory.backends.insert(probe.id.clone(), observe::backends(&samples));
    Ok(Observation { fields, tally: observe::tally(&samples, name_of) })
}

fn none_held(name: &str) -> Observation {
    let mut fields = Fields::new();
    fields.insert("result".into(), "no-socket".into());
    Observation {
        fields,
        tally: vec![format!("no socket is held under the name {name}: none worked when they were opened")],
    }
}

fn remember_held(probe: &Probe, name: &str, samples: &[Sample], memory: &mut Memory) {
    let works = |sample: &&Sample| sample.outcome == crate::Outcome::Ok || probe.opts.hold_failed;
    let sockets: BTreeMap<u16, String> = samples
        .iter()
        .filter(works)
        .filter_map(|sample| Some((sample.local?.port(), sample.backends.last().cloned().unwrap_or_default())))
        .collect();
    if !sockets.is_empty() {
        memory.held.entry((probe.from.clone(), name.to_owned())).or_default().extend(sockets);
    }
}

fn send_http(probe: &Probe, path: &str, client: &Client) -> Result<Observation> {
    let mut reports: Vec<(GetReport, Duration)> = Vec::new();
    for _ in 0..probe.count {
        let start = Instant::now();
        let report = client.get(Get { timeout: timeout(probe), ..Get::to(to(probe), path) })?;
        reports.push((report, start.elapsed()));
    }
    let tally = reports.iter().map(|(report, _)| format!("{report:?}")).collect();
    Ok(Observation { fields: observe::http_outcome(&reports), tally })
}

fn to(probe: &Probe) -> SocketAddr {
    SocketAddr::new(probe.to, probe.port)
}

/// How long a sample waits for an answer.
pub fn timeout(probe: &Probe) -> Duration {
    let opts = &probe.opts;
    let large = opts.body.unwrap_or(0).max(opts.reply.unwrap_or(0)) >= LARGE;
    match (opts.timeout, probe.proto) {
        (Some(seconds), _) => Duration::from_secs_f64(seconds),
        (None, Proto::Tcp) if large => LARGE_TIMEOUT,
        (None, Proto::Tcp) => TCP_TIMEOUT,
        (None, Proto::Udp) => UDP_TIMEOUT,
        (None, Proto::Icmp) => ICMP_TIMEOUT,
    }
}

fn interval(probe: &Probe) -> Duration {
    Duration::from_secs_f64(probe.opts.interval.unwrap_or(0.0))
}

fn tcp(probe: &Probe) -> Tcp {
    let opts = &probe.opts;
    Tcp {
        to: to(probe),
        count: probe.count,
        serial: opts.serial || opts.interval.is_some(),
        interval: interval(probe),
        timeout: timeout(probe),
        source_port: opts.source_port,
        body: opts.body.unwrap_or(0),
        reply: opts.reply.unwrap_or(0),
        hold: probe.hold.clone(),
        hold_failed: opts.hold_failed,
    }
}

fn udp(probe: &Probe) -> Udp {
    let (opts, default) = (&probe.opts, Udp::to(to(probe)));
    Udp {
        count: probe.count,
        serial: opts.serial || opts.interval.is_some(),
        interval: interval(probe),
        timeout: timeout(probe),
        source_port: opts.source_port,
        payload: opts.payload.unwrap_or(default.payload),
        reply: opts.reply.unwrap_or(default.reply),
        packets: opts.packets.unwrap_or(default.packets),
        burst: opts.burst.unwrap_or(default.burst),
        unconnected: opts.unconnected,
        dont_fragment: opts.df,
        hold: probe.hold.clone(),
        hold_failed: opts.hold_failed,
        ..default
    }
}

fn again(probe: &Probe, name: &str) -> Again {
    let (opts, default) = (&probe.opts, Again::on(name));
    let size = match probe.proto {
        Proto::Tcp => opts.body.unwrap_or(0),
        _ => opts.payload.unwrap_or(default.size),
    };
    Again {
        timeout: timeout(probe),
        size,
        reply: opts.reply.unwrap_or(default.reply),
        packets: opts.packets.unwrap_or(default.packets),
        ..default
    }
}
