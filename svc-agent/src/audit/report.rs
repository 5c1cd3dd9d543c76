//! What an audit says. The JSON fields are stable: scripts and the soak read them.

use std::fmt;

use serde::Serialize;

/// Something that must not be. JSON: `rule`, `object`, `detail`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct Violation {
    /// One word of each kind, for counting and for searching the documents.
    pub rule: &'static str,
    /// The service, address or connection it is about.
    pub object: String,
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.rule, self.object, self.detail)
    }
}

/// How much was looked at, and what is odd but allowed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Counts {
    pub services: u32,
    pub frontends: u32,
    pub markers: u32,
    pub names: u32,
    pub slots: u32,
    /// All that live.
    pub backends: u32,
    /// Live without a slot.
    pub draining: u32,
    pub flows_v4: u32,
    pub flows_v6: u32,
    /// One direction was forgotten, as LRU maps do.
    pub half_flows: u32,
    /// Replies of an endpoint that its UDP client has left, or of a connection whose tuple was used again. Swept in the end.
    pub superseded_flows: u32,
    pub affinities: u32,
    pub sockets: u32,
    /// Counters of services that are gone: their last connections still count.
    pub counters_of_nobody: u32,
}

#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Report {
    pub violations: Vec<Violation>,
    pub counts: Counts,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    pub(super) fn note(&mut self, rule: &'static str, object: impl fmt::Display, detail: impl fmt::Display) {
        self.violations.push(Violation { rule, object: object.to_string(), detail: detail.to_string() });
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} services, {} frontends, {} address markers, {} names, {} slots, {} backends ({} draining), {} + {} flows \
             (IPv4 + IPv6; {} without their other half, {} superseded), {} affinities, {} socket entries, {} counters \
             of services that are gone",
            self.services,
            self.frontends,
            self.markers,
            self.names,
            self.slots,
            self.backends,
            self.draining,
            self.flows_v4,
            self.flows_v6,
            self.half_flows,
            self.superseded_flows,
            self.affinities,
            self.sockets,
            self.counters_of_nobody
        )
    }
}
