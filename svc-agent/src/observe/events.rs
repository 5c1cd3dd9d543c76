//! `monitor`: one event as one line, for people or as JSON. No reading and no waiting here.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use svc_common::{DropReason, Event, event_kind, event_path};

use super::label::{Filter, ProtocolLabel, ServiceLabel, ip_of, socket_address, text_of};

/// JSON, one object per line: `time` (RFC 3339), `service`, `namespace`, `name`, `port_name` (all null when the
/// packet belongs to no service), `protocol`, `client` (null for a socket: it has no address yet), `process` and
/// `command` (of a socket, else null), `frontend`, `backend` (null when none was chosen), `path` ("socket" | "tc" |
/// "xdp"), `outcome` ("translated" | "refused" | "dropped"), `reason` (null when translated).
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct EventLine {
    pub time: Timestamp,
    #[serde(flatten)]
    pub label: EventService,
    pub protocol: ProtocolLabel,
    pub client: Option<SocketAddr>,
    pub process: Option<u32>,
    pub command: Option<String>,
    pub frontend: SocketAddr,
    pub backend: Option<SocketAddr>,
    pub path: &'static str,
    pub outcome: &'static str,
    pub reason: Option<&'static str>,
}

/// The fields of a [`ServiceLabel`], or null for each of them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct EventService {
    pub service: Option<String>,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub port_name: Option<String>,
}

impl From<ServiceLabel> for EventService {
    fn from(label: ServiceLabel) -> Self {
        let ServiceLabel { service, namespace, name, port_name } = label;
        Self { service: Some(service), namespace, name, port_name }
    }
}

/// Which events to show.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EventFilter {
    pub rows: Filter,
    /// Only what was refused or dropped.
    pub drops_only: bool,
}

impl EventFilter {
    /// `label` is None for an event that belongs to no service.
    pub fn wants(&self, event: &Event, label: Option<&ServiceLabel>) -> bool {
        let by_service = match label {
            Some(label) => self.rows.wants_service(label),
            None => self.rows.service.is_none() && self.rows.namespace.is_none(),
        };
        by_service
            && self.rows.wants_client(ip_of(event.family, event.client))
            && (!self.drops_only || event.kind != event_kind::TRANSLATED)
    }
}

impl EventLine {
    /// `boot` is the wall-clock time at which CLOCK_MONOTONIC was zero.
    pub fn new(event: &Event, label: Option<ServiceLabel>, boot: SystemTime) -> Self {
        let known = |address: IpAddr, port| {
            let full = socket_address(address, port);
            (!address.is_unspecified()).then_some(full)
        };
        let ip = |address| ip_of(event.family, address);
        let reason = (event.kind != event_kind::TRANSLATED)
            .then(|| DropReason::from_index(event.reason).map_or("unknown", DropReason::label));
        Self {
            time: Timestamp::try_from(boot + Duration::from_nanos(event.time)).unwrap_or(Timestamp::UNIX_EPOCH),
            label: label.map(EventService::from).unwrap_or_default(),
            protocol: ProtocolLabel(event.protocol),
            client: known(ip(event.client), event.client_port),
            process: (event.process != 0).then_some(event.process),
            command: (event.process != 0).then(|| text_of(&event.command)),
            frontend: socket_address(ip(event.frontend), event.frontend_port),
            backend: known(ip(event.backend), event.backend_port),
            path: match event.path {
                event_path::SOCKET => "socket",
                event_path::TC => "tc",
                event_path::XDP => "xdp",
                _ => "unknown",
            },
            outcome: match event.kind {
                event_kind::TRANSLATED => "translated",
                event_kind::REFUSED => "refused",
                _ => "dropped",
            },
            reason,
        }
    }

    /// The line for people, with the time of day in `zone`.
    pub fn text<'a>(&'a self, zone: &'a TimeZone) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| {
            let time = self.time.to_zoned(zone.clone());
            write!(f, "{} {:<4} ", time.strftime("%H:%M:%S%.3f"), self.protocol)?;
            let client = match (self.client, self.process) {
                (Some(client), _) => client.to_string(),
                (None, Some(process)) => format!("{}[{process}]", self.command.as_deref().unwrap_or_default()),
                (None, None) => "-".to_owned(),
            };
            write!(f, "{client:<21} ")?;
            let service = self.label.service.as_deref().unwrap_or("-");
            write!(f, "{service}  {} → ", self.frontend)?;
            match (self.backend, self.reason) {
                (Some(backend), None) => write!(f, "{backend}")?,
                (_, reason) => write!(f, "{}: {}", self.outcome, reason.unwrap_or("unknown"))?,
            }
            write!(f, "  {}", self.path)
        })
    }
}
