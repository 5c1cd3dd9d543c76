//! What a client process reports: one value per socket, load, transfer or page.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::outcome::Outcome;
use crate::serve::Direction;

/// What one socket experienced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub outcome: Outcome,
    /// The system's words when the outcome is not `ok`
    pub error: Option<String>,
    /// `name:port` of everybody who answered on this socket in this exchange, in order, repetitions folded
    pub backends: Vec<String>,
    /// The client as the last server saw it
    pub client_seen: Option<SocketAddr>,
    /// Bodies arrived unchanged in both directions
    pub intact: bool,
    /// Where the last answer came from, as the socket reported it
    pub reply_from: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    /// getpeername of the socket
    pub peer: Option<SocketAddr>,
    /// Path MTU the socket has learned
    pub path_mtu: Option<u32>,
    pub elapsed: Duration,
}

impl Sample {
    pub(crate) fn new() -> Self {
        Self {
            outcome: Outcome::Ok,
            error: None,
            backends: Vec::new(),
            client_seen: None,
            intact: true,
            reply_from: None,
            local: None,
            peer: None,
            path_mtu: None,
            elapsed: Duration::ZERO,
        }
    }

    /// Name of the machine that answered, without port.
    pub fn pod(&self) -> Option<&str> {
        self.backends.last().and_then(|backend| backend.rsplit_once(':')).map(|(pod, _)| pod)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    pub requests: u64,
    pub connections: u64,
    pub failures: BTreeMap<Outcome, u64>,
    /// The first few failures with the time since the start
    pub first_failures: Vec<String>,
    /// Requests answered, by pod
    pub backends: BTreeMap<String, u64>,
    pub elapsed: Duration,
}

impl LoadReport {
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkReport {
    pub outcome: Outcome,
    pub error: Option<String>,
    pub received: Direction,
    pub sent_intact: bool,
    /// Segments this side sent again
    pub retransmits: u32,
    pub elapsed: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetReport {
    pub outcome: Outcome,
    pub error: Option<String>,
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}
